// Names of runs open pictures, which are fetched only then.
const gallery = document.getElementById("gallery");
const galleryButton = document.getElementById("gallery-button");
const dialog = document.getElementById("picture");
const image = document.getElementById("picture-img");
const titles = [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim());

const fill = () => {
  gallery.replaceChildren(
    ...rows().flatMap((row) => {
      const link = row.querySelector("button.run");
      if (!link) return [];
      const card = document.createElement("button");
      card.type = "button";
      const name = document.createElement("span");
      name.textContent = link.textContent;
      if (row.cells[1].textContent !== "kept") name.className = "bad";
      const picture = new Image();
      picture.loading = "lazy";
      picture.alt = "";
      picture.src = link.dataset.src;
      card.append(name, ` ${row.cells[1].textContent}`, picture);
      card.addEventListener("click", () => open(row));
      return [card];
    }),
  );
};

let current = null;
const neighbour = (step) => {
  const pictured = rows().filter((row) => row.querySelector("button.run"));
  return pictured[pictured.indexOf(current) + step];
};
const open = (row) => {
  current = row;
  const link = row.querySelector("button.run");
  document.getElementById("picture-h").textContent = link.textContent;
  const shown = [...row.cells].map((cell) => cell.textContent.trim());
  document.getElementById("picture-state").textContent = [shown[1], shown.at(-1)].filter(Boolean).join(": ");
  const facts = titles.map((title, i) => shown[i] && `${title} ${shown[i]}`).slice(2, -1);
  document.getElementById("picture-facts").textContent = facts.filter(Boolean).join(" · ");
  image.src = link.dataset.src;
  image.alt = `Displacement, DVARS, carpets and coverage of ${link.textContent}`;
  document.getElementById("previous").disabled = !neighbour(-1);
  document.getElementById("next").disabled = !neighbour(1);
  if (!dialog.open) dialog.showModal();
};
const step = (by) => {
  const row = neighbour(by);
  if (row) open(row);
};

table.tBodies[0].addEventListener("click", (event) => {
  const link = event.target.closest("button.run");
  if (link) open(link.closest("tr"));
});
table.addEventListener("shown", () => {
  if (!gallery.hidden) fill();
});
galleryButton.addEventListener("click", () => {
  gallery.hidden = !gallery.hidden;
  table.closest(".scroll").hidden = !gallery.hidden;
  galleryButton.setAttribute("aria-pressed", String(!gallery.hidden));
  refresh();
});
document.getElementById("previous").addEventListener("click", () => step(-1));
document.getElementById("next").addEventListener("click", () => step(1));
document.getElementById("close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close(); // the backdrop
});
dialog.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
refresh();

// Runs: chips type into the filter; a page that shows the runs in another way too follows the event "shown".
const table = document.getElementById("table");
const filter = document.getElementById("filter");
const chips = [...document.querySelectorAll(".chip[data-words]")];
const rows = () => [...table.tBodies[0].rows].filter((row) => !row.hidden);
const refresh = () => {
  const shown = rows().length;
  document.getElementById("count").textContent = `${shown} of ${table.tBodies[0].rows.length} runs`;
  for (const chip of chips) chip.setAttribute("aria-pressed", String(chip.dataset.words === filter.value.trim().toLowerCase()));
  table.dispatchEvent(new Event("shown"));
};
filter.addEventListener("input", refresh);
for (const chip of chips) {
  chip.addEventListener("click", () => {
    filter.value = chip.dataset.words;
    filter.dispatchEvent(new Event("input"));
  });
}
table.tHead.addEventListener("click", () => setTimeout(refresh)); // after the rows have their new order

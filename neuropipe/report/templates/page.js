"use strict";
// Sort: the button in a header orders the rows of its table; numbers by their full precision (data-v), words as words.
const value = (row, column) => {
  const cell = row.cells[column];
  return cell.dataset.v === undefined ? cell.textContent.trim() : cell.dataset.v === "" ? NaN : Number(cell.dataset.v);
};
const compare = (a, b) => {
  if (typeof a === "string" || typeof b === "string") return String(a).localeCompare(String(b), "en", { numeric: true });
  return a - b;
};
for (const button of document.querySelectorAll("table.sortable button.sort")) {
  button.addEventListener("click", () => {
    const header = button.closest("th");
    const table = header.closest("table");
    const ascending = header.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const rows = [...table.tBodies[0].rows];
    rows.sort((first, second) => {
      const a = value(first, header.cellIndex);
      const b = value(second, header.cellIndex);
      if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b); // missing values stay last
      return ascending ? compare(a, b) : compare(b, a);
    });
    table.tBodies[0].append(...rows);
  });
}
// Filter: rows that hold every typed word.
for (const input of document.querySelectorAll("input.filter")) {
  const table = document.getElementById(input.dataset.table);
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/);
    for (const row of table.tBodies[0].rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
}
// Theme: follows the system until the button is used; then the choice holds for this visit.
const theme = document.getElementById("theme");
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const show = (isDark) => {
  theme.setAttribute("aria-pressed", String(isDark));
  document.dispatchEvent(new Event("themechange")); // drawings that read colours once draw again
};
theme.hidden = false;
show(dark.matches);
dark.addEventListener("change", () => {
  if (!document.documentElement.dataset.theme) show(dark.matches);
});
theme.addEventListener("click", () => {
  const isDark = theme.getAttribute("aria-pressed") !== "true";
  document.documentElement.dataset.theme = isDark ? "dark" : "light";
  show(isDark);
});

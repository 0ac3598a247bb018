// Contact sheet: a cell is shown while its row is, and a name in the table leads to it.
const cells = new Map([...document.querySelectorAll("#contact .cell")].map((cell) => [cell.id, cell]));
table.addEventListener("shown", () => {
  for (const row of table.tBodies[0].rows) cells.get(row.dataset.cell).hidden = row.hidden;
});
refresh();

// Sort a table by the column whose head is pressed: best first, pressed again the other way.
for (const head of document.querySelectorAll("table.sortable th button")) {
  head.addEventListener("click", () => {
    const cell = head.closest("th"), body = cell.closest("table").tBodies[0];
    const column = [...cell.parentNode.children].indexOf(cell), more = cell.dataset.more !== "no";
    const first = more ? "descending" : "ascending", second = more ? "ascending" : "descending";
    const order = cell.getAttribute("aria-sort") === first ? second : first;
    for (const other of cell.parentNode.children) other.removeAttribute("aria-sort");
    cell.setAttribute("aria-sort", order);
    const value = (row) => row.children[column].dataset.value;
    const numeric = column > 0;
    const rows = [...body.rows].sort((a, b) =>
      numeric ? Number(value(a)) - Number(value(b)) : value(a).localeCompare(value(b)));
    body.append(...(order === "descending" ? rows.reverse() : rows));
  });
}

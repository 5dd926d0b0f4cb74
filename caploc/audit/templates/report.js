// Sorts and filters each paper's table of cells. The page is complete without it.
document.querySelectorAll(".audit-paper").forEach((paper) => {
  "use strict";
  const table = paper.querySelector(".audit-cells");
  const filter = paper.querySelector(".audit-filter");
  if (!table || !filter) return;

  const bodies = [...table.tBodies];
  const heads = [...table.tHead.rows[0].cells];

  // A cell's value in a column; null, which comes last in either direction, where it has none.
  const valueOf = (body, column, kind) => {
    const cell = body.rows[0].cells[column];
    const text = cell.dataset.sort ?? cell.textContent.trim();
    if (text === "") return null;
    return kind === "number" ? Number(text) : text;
  };
  const words = new Intl.Collator("en", { numeric: true });
  const compare = (a, b) => (typeof a === "string" ? words.compare(a, b) : a - b);

  const sortBy = (column) => {
    const head = heads[column];
    const sign = head.ariaSort === "ascending" ? -1 : 1;
    const keyed = bodies.map((body) => [valueOf(body, column, head.dataset.type), body]);
    keyed.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return sign * compare(a, b);
    });
    bodies.splice(0, bodies.length, ...keyed.map(([, body]) => body));
    table.append(...bodies);
    for (const other of heads) other.ariaSort = other === head ? (sign > 0 ? "ascending" : "descending") : "none";
  };

  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.addEventListener("click", () => sortBy(column));
    head.replaceChildren(button);
    head.ariaSort = "none";
  });

  const search = filter.querySelector("input[type=search]");
  const boxes = [...filter.querySelectorAll("input[type=checkbox]")];
  const output = filter.querySelector("output");
  const texts = new Map();
  const textOf = (body) => {
    if (!texts.has(body)) {
      const reason = body.querySelector("summary").textContent;
      texts.set(body, `${body.dataset.family} ${body.rows[0].textContent} ${reason}`.toLowerCase());
    }
    return texts.get(body);
  };

  const show = () => {
    const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const verdicts = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    let shown = 0;
    for (const body of bodies) {
      const fits = verdicts.has(body.dataset.verdict) && wanted.every((word) => textOf(body).includes(word));
      body.hidden = !fits;
      shown += fits;
    }
    output.textContent = `${shown} of ${bodies.length} cells`;
  };

  filter.addEventListener("input", show);
  filter.addEventListener("submit", (event) => event.preventDefault());
  filter.hidden = false;
  show();

  for (const link of paper.querySelectorAll("a[data-filter]")) {
    link.addEventListener("click", () => {
      search.value = link.dataset.filter;
      for (const box of boxes) box.checked = true;
      show();
    });
  }
});

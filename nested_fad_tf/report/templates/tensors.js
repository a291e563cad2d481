// The table of kept tensors: sorts by a column, searches, and shows the first rows of a long list.
{
  const FIRST_ROWS = 200;
  const rows = DATA.tensors.map(([fn, layer, tensor, op, type, before, after, why]) => ({
    fn, layer, tensor, op, type, before, after, why: DATA.whys[why], function: DATA.functions[fn],
    status: after ? (before ? "kept" : "new") : "dropped",
  }));
  for (const row of rows) {
    row.text = [row.layer, row.tensor, row.op, row.type, row.why].join(" ").toLowerCase();
  }
  const columns = [
    { title: "Layer", key: "layer", cell: (r) => element("td", { class: "name layer" }, ...breakable(r.layer)) },
    { title: "Tensor", key: "tensor", cell: (r) => element("td", { class: "name" }, r.tensor) },
    { title: "Op", key: "op", cell: (r) => element("td", { class: "name op" }, r.op, element("br"), element("span", { class: "muted" }, r.type)) },
    { title: "Before", key: "before", number: true, cell: (r) => size(r.before) },
    { title: "Now", key: "after", number: true, cell: (r) => size(r.after) },
    { title: "Why", key: "why", cell: (r) => element("td", { class: r.after ? "why" : "why dropped" }, r.why) },
  ];
  const largestFirst = { column: columns[3], descending: true };
  if (DATA.functions.length > 1) {
    columns.unshift({ title: "Function", key: "function",
      cell: (r) => element("td", { class: "name" }, ...breakable(r.function)) });
  }
  const search = document.getElementById("tensor-search");
  const status = document.getElementById("tensor-status");
  const which = document.getElementById("tensor-function");
  const body = document.querySelector("#tensor-table tbody");
  const head = document.querySelector("#tensor-table thead tr");
  const more = document.getElementById("tensor-more");
  let sorted = largestFirst;
  let limit = FIRST_ROWS;

  function size(bytes) {
    return element("td", { class: "number" }, bytes ? readable(bytes) : "–");
  }

  function chosen() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    return rows.filter((row) =>
      (!status.value || row.status === status.value) &&
      (!which || which.value === "" || row.fn === Number(which.value)) &&
      words.every((word) => row.text.includes(word)));
  }

  function compare(a, b) {
    const { column: { key, number }, descending } = sorted;
    const order = number ? a[key] - b[key] : natural.compare(a[key], b[key]);
    return (descending ? -order : order) || natural.compare(a.layer, b.layer);
  }

  function show() {
    const found = chosen().sort(compare);
    const shown = found.slice(0, limit);
    body.replaceChildren(...shown.map((row) => element("tr", {}, ...columns.map((c) => c.cell(row)))));
    const sum = (key) => readable(found.reduce((total, row) => total + row[key], 0));
    document.getElementById("tensor-count").value =
      `${found.length} of ${rows.length} tensors, ${sum("before")} before, ${sum("after")} now`;
    more.hidden = shown.length === found.length;
    more.textContent = `Show all ${found.length}`;
    for (const [i, cell] of [...head.children].entries()) {
      if (columns[i] === sorted.column) {
        cell.setAttribute("aria-sort", sorted.descending ? "descending" : "ascending");
      } else {
        cell.removeAttribute("aria-sort");
      }
    }
  }

  for (const column of columns) {
    const button = element("button", { type: "button" }, column.title);
    button.addEventListener("click", () => {
      const again = sorted.column === column;
      sorted = { column, descending: again ? !sorted.descending : Boolean(column.number) };
      show();
    });
    head.append(element("th", { scope: "col", class: column.number ? "number" : "" }, button));
  }
  if (which) {
    which.append(element("option", { value: "" }, "all functions"),
      ...DATA.functions.map((name, i) => element("option", { value: i }, name)));
    which.addEventListener("change", show);
  }
  onInput(search, () => { limit = FIRST_ROWS; show(); });
  status.addEventListener("change", show);
  more.addEventListener("click", () => { limit = Infinity; show(); });
  show();
}

// The tree of layers. A branch is filled when it is opened for the first time.
{
  const node = (name) => ({ name, before: 0, after: 0, below: new Map() });
  const root = node("");
  for (const [fn, layer, , , , before, after] of DATA.tensors) {
    const path = layer.split("/");
    if (DATA.functions.length > 1) path.unshift(DATA.functions[fn]);
    let at = root;
    for (const part of ["", ...path]) {
      if (part) {
        if (!at.below.has(part)) at.below.set(part, node(part));
        at = at.below.get(part);
      }
      at.before += before;
      at.after += after;
    }
  }

  // A layer with nothing of its own and one layer in it is shown as one.
  function joined(item) {
    while (item.below.size === 1) {
      const [only] = item.below.values();
      if (only.before !== item.before || only.after !== item.after) break;
      item = { ...only, name: `${item.name}/${only.name}` };
    }
    return item;
  }

  function row(tag, item, largest) {
    const name = element("span", { class: "name" }, ...breakable(item.name));
    return element(tag, { class: "layer-row" }, name, bars(item.before, item.after, largest),
      element("span", { class: "number" }, readable(item.before)),
      element("span", { class: "number" }, readable(item.after)));
  }

  function branches(item) {
    const items = [...item.below.values()].map(joined);
    items.sort((a, b) => natural.compare(a.name, b.name));
    const largest = Math.max(...items.map((i) => Math.max(i.before, i.after)));
    return items.map((i) => branch(i, largest));
  }

  function branch(item, largest) {
    if (!item.below.size) return row("div", item, largest);
    const details = element("details", {}, row("summary", item, largest));
    details.addEventListener("toggle", () => {
      if (details.open && details.children.length === 1) {
        details.append(element("div", { class: "branch" }, ...branches(item)));
      }
    });
    // What holds most is open from the start, down to where it is spread.
    details.open = 2 * Math.max(item.before, item.after) > Math.max(root.before, root.after);
    return details;
  }

  document.getElementById("layer-tree").append(...branches(root));
}

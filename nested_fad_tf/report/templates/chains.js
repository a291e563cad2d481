// The list of chains, largest first; a chain's formula and graph are made when it is opened.
{
  const FIRST_CHAINS = 60;
  const chains = [...DATA.chains].sort((a, b) => b.before - a.before);
  for (const chain of chains) {
    chain.text = [chain.name, chain.action, chain.why, ...chain.formula].join(" ").toLowerCase();
  }
  const search = document.getElementById("chain-search");
  const list = document.getElementById("chain-list");
  const more = document.getElementById("chain-more");
  let limit = FIRST_CHAINS;

  function item(chain) {
    const ops = chain.ops === 1 ? "1 op" : `${chain.ops} ops`;
    const to = chain.last && chain.last !== chain.name ? ` to ${chain.last}` : "";
    const details = element("details", {}, element("summary", {},
      element("span", { class: "name" }, ...breakable(chain.name), " ", element("span", { class: "muted" }, `${ops}${to}`)),
      element("span", { class: "badge" }, chain.action),
      element("span", { class: "number" }, `${readable(chain.before)} → ${readable(chain.after)}`)));
    details.addEventListener("toggle", () => {
      if (details.open && details.children.length === 1) details.append(body(chain));
    });
    return details;
  }

  function body(chain) {
    const made = element("div", { class: "body" });
    if (DATA.functions.length > 1) {
      made.append(element("p", { class: "note name" }, "in ", ...breakable(DATA.functions[chain.function])));
    }
    made.append(element("p", {}, element("strong", {}, chain.action), `: ${chain.why}`));
    const formula = element("pre", { class: "formula" });
    for (const line of chain.formula) {
      formula.append(element("span", line.includes(" = ") ? {} : { class: "where" }, line), "\n");
    }
    made.append(formula);
    if (chain.nodes.length) {
      const shown = chain.nodes.filter((node) => node[2] === "chain").length;
      const part = shown < chain.ops ? ` Its first ${shown} ops are drawn.` : "";
      made.append(
        element("p", { class: "note" }, `Filled: the chain. Dashed: who reads it.${part} `,
          element("i", { class: "before" }), "kept by plain TensorFlow, ",
          element("i", { class: "after" }), "kept now."),
        element("div", { class: "graph" }, graphOf(chain.nodes)));
    }
    return made;
  }

  function show() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = chains.filter((chain) => words.every((word) => chain.text.includes(word)));
    list.replaceChildren(...found.slice(0, limit).map(item));
    document.getElementById("chain-count").value = `${found.length} of ${chains.length} chains`;
    more.hidden = found.length <= limit;
    more.textContent = `Show all ${found.length}`;
  }

  onInput(search, () => { limit = FIRST_CHAINS; show(); });
  more.addEventListener("click", () => { limit = Infinity; show(); });
  show();
}

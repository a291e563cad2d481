// Draws the ops in and around a chain: each below what it reads, boxes in rows.
const BOX = { width: 148, height: 38, across: 18, down: 34, edge: 16 };

function levelsOf(nodes) {
  const level = nodes.map(() => 0);
  // Inputs come first and readers last, so a few rounds are enough for what is left out of order.
  for (let changed = true, round = 0; changed && round < nodes.length; round += 1) {
    changed = false;
    nodes.forEach((node, i) => {
      const wanted = Math.max(0, ...node.reads.map((r) => level[r] + 1));
      if (wanted !== level[i]) {
        level[i] = wanted;
        changed = true;
      }
    });
  }
  // An input stands just above its first reader.
  nodes.forEach((node, i) => {
    const readers = level.filter((_, j) => nodes[j].reads.includes(i));
    if (node.kind === "input" && readers.length) level[i] = Math.min(...readers) - 1;
  });
  return level;
}

function rowsOf(nodes) {
  const level = levelsOf(nodes);
  const rows = Array.from({ length: Math.max(...level) + 1 }, () => []);
  level.forEach((l, i) => rows[l].push(i));
  const place = nodes.map(() => 0);
  for (const row of rows) {
    const middle = (i) => {
      const reads = nodes[i].reads;
      return reads.length ? reads.reduce((sum, r) => sum + place[r], 0) / reads.length : 0;
    };
    row.sort((a, b) => middle(a) - middle(b));
    row.forEach((i, position) => { place[i] = position - (row.length - 1) / 2; });
  }
  return { rows, place };
}

function graphOf(list) {
  const nodes = list.map(([name, op, kind, tensor, bytes, kept, reads]) =>
    ({ name, op, kind, tensor, bytes, kept, reads }));
  const { rows, place } = rowsOf(nodes);
  const widest = Math.max(...rows.map((row) => row.length));
  const width = widest * (BOX.width + BOX.across) + 2 * BOX.edge;
  const height = rows.length * (BOX.height + BOX.down) - BOX.down + 2 * BOX.edge;
  const at = [];
  rows.forEach((row, level) => row.forEach((i) => {
    at[i] = {
      x: width / 2 + place[i] * (BOX.width + BOX.across),
      y: BOX.edge + level * (BOX.height + BOX.down),
    };
  }));
  const svg = drawn("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": "the ops of the chain and their neighbours" });
  nodes.forEach((node, i) => node.reads.forEach((r) => {
    const [x1, y1, x2, y2] = [at[r].x, at[r].y + BOX.height, at[i].x, at[i].y];
    const bend = Math.max(14, (y2 - y1) / 2);
    // What passes rows goes round the boxes below, on the outer side.
    const out = y2 - y1 <= BOX.down ? 0 : (x1 + x2 < width ? -1 : 1) * BOX.width * 0.8;
    const [cx1, cx2] = [x1 + out, x2 + out];
    svg.append(drawn("path", { d: `M${x1} ${y1} C${cx1} ${y1 + bend} ${cx2} ${y2 - bend} ${x2} ${y2}` }));
  }));
  nodes.forEach((node, i) => svg.append(box(node, at[i])));
  return svg;
}

const KINDS = { input: "read by the chain", chain: "op of the chain",
  derivative: "derivative, added to the forward pass", forward: "reads the chain in the forward pass", backward: "reads the chain in the backward pass" };
const KEPT = { before: "kept by plain TensorFlow only", after: "kept now only", both: "kept before and now" };

function box(node, { x, y }) {
  const lines = [node.name, node.tensor, KINDS[node.kind], KEPT[node.kept]].filter(Boolean);
  const group = drawn("g", { class: node.kind }, drawn("title", {}, lines.join("\n")));
  const left = x - BOX.width / 2;
  const op = node.kind === "derivative" ? "derivative" : node.op;
  const name = op.length > 21 ? `${op.slice(0, 20)}…` : op;
  group.append(
    drawn("rect", { x: left, y, width: BOX.width, height: BOX.height, rx: 5 }),
    drawn("text", { x, y: y + 16, "text-anchor": "middle" }, name),
    drawn("text", { x, y: y + 31, class: "size", "text-anchor": "middle" },
      node.bytes ? readable(node.bytes) : ""));
  const marks = { before: ["before"], after: ["after"], both: ["before", "after"] }[node.kept] || [];
  marks.forEach((mark, i) => group.append(
    drawn("circle", { class: mark, cx: left + BOX.width - 9 - 12 * i, cy: y + 9, r: 4.5 })));
  return group;
}

const main = document.querySelector("main");
const SVG = "http://www.w3.org/2000/svg";
const measured = DATA.methods.filter((m) => m.error === null);
const families = [...new Set(["compressae", ...measured.map((m) => m.family)])]
  .filter((family) => measured.some((m) => m.family === family));
const hidden = new Set();
const SIZES = {
  "held bytes an item": (m) => m.bytes_an_item,
  "code bytes an item": (m) => m.code_bytes,
  "all bytes an item (held + constant / n)": (m) => m.all_bytes_an_item,
};
const state = { metric: DATA.metrics.includes("recall@10") ? "recall@10" : DATA.metrics[0],
  size: Object.keys(SIZES)[0], sort: null, down: true };

function add(parent, name, attributes = {}, text = null) {
  const inSvg = parent.namespaceURI === SVG || name === "svg";
  const made = inSvg ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  parent.append(made);
  return made;
}
const number = (x, digits = 3) => x === null ? "–"
  : Math.abs(x) >= 1000 ? Math.round(x).toLocaleString("en") : String(Number(x.toPrecision(digits)));
const fixed = (digits) => (x) => x === null ? "–"
  : x.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
const value = (m, metric) => m.metrics[metric] ? m.metrics[metric].mean : null;

const OURS = "compressae";
const short = (m) => m.family === OURS ? m.name.split(", ").slice(0, 2).join(", ") : m.method;
const trained = (m) => m.trained_rows ? `trained on ${number(m.trained_rows)} rows` : "not trained";

/** Points that no other beats: none has as much y at as small (or as large) an x. */
function frontier(points, lowX) {
  const better = (a, b) => (lowX ? a.x <= b.x : a.x >= b.x) && a.y >= b.y && (a.x !== b.x || a.y !== b.y);
  return points.filter((p) => !points.some((q) => better(q, p))).sort((a, b) => a.x - b.x);
}

function shape(parent, family, x, y) {
  const r = 5;
  const paths = [
    `M${x - r},${y}a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`,
    `M${x - r},${y - r}h${2 * r}v${2 * r}h${-2 * r}z`,
    `M${x},${y - r - 1}l${r + 1},${2 * r}h${-2 * r - 2}z`,
    `M${x},${y - r - 1}l${r + 1},${r + 1}l${-r - 1},${r + 1}l${-r - 1},${-r - 1}z`,
    `M${x},${y + r + 1}l${r + 1},${-2 * r}h${-2 * r - 2}z`,
    `M${x - r},${y - 2}h${r - 2}v${-r + 2}h4v${r - 2}h${r - 2}v4h${-r + 2}v${r - 2}h-4v${-r + 2}h${-r + 2}z`,
  ];
  return add(parent, "path", { d: paths[family % paths.length], class: `mark family${family % 6}` });
}

function ticks(low, high) {
  const marks = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++)
    for (const lead of [1, 2, 5]) {
      const at = lead * 10 ** e;
      if (at >= low * 0.999 && at <= high * 1.001) marks.push(at);
    }
  if (marks.length < 2) return [low * 1.25, high / 1.25]; // All are equal: their own sizes.
  return marks.length > 9 ? marks.filter((t) => /^1/.test(t.toExponential())) : marks;
}

function chart(holder, title, x, lowX) {
  const width = 560, height = 400, left = 48, right = 16, top = 12, bottom = 44;
  const points = measured.filter((m) => !hidden.has(m.family))
    // Four digits: a few bytes in all, spread over the items, are no difference.
    .map((m) => ({ m, x: Number(x(m).toPrecision(4)), y: value(m, state.metric) }))
    .filter((p) => p.x > 0 && p.y !== null);
  holder.replaceChildren();
  const svg = add(holder, "svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": title });
  if (!points.length) { add(svg, "text", { x: left, y: 40 }, "Nothing to show."); return; }
  const xs = points.map((p) => p.x);
  const low = Math.min(...xs) / 1.25, high = Math.max(...xs) * 1.25;
  const least = Math.min(0, ...points.map((p) => p.y));
  const px = (v) => left + (width - left - right) * Math.log(v / low) / Math.log(high / low);
  const py = (v) => height - bottom - (height - top - bottom) * (v - least) / (1.02 - least);
  for (const t of ticks(low, high)) {
    add(svg, "line", { x1: px(t), x2: px(t), y1: top, y2: height - bottom, class: "grid" });
    add(svg, "text", { x: px(t), y: height - bottom + 16, "text-anchor": "middle" }, number(t));
  }
  for (let t = 0; t <= 1.001; t += 0.2) {
    add(svg, "line", { x1: left, x2: width - right, y1: py(t), y2: py(t), class: "grid" });
    add(svg, "text", { x: left - 6, y: py(t) + 4, "text-anchor": "end" }, t.toFixed(1));
  }
  add(svg, "text", { x: (left + width - right) / 2, y: height - 8, "text-anchor": "middle" }, title);
  add(svg, "text", { x: 12, y: height / 2, "text-anchor": "middle",
    transform: `rotate(-90 12 ${height / 2})` }, state.metric);
  const edge = frontier(points, lowX);
  add(svg, "polyline", { class: "frontier", points: edge.map((p) => `${px(p.x)},${py(p.y)}`).join(" ") });
  for (const name of new Set(points.map((p) => p.m.method))) {
    const ofMethod = points.filter((p) => p.m.method === name).sort((a, b) => a.x - b.x);
    if (ofMethod.length > 1) add(svg, "polyline", { class: "settings",
      points: ofMethod.map((p) => `${px(p.x)},${py(p.y)}`).join(" ") });
  }
  for (const p of points) {
    const mark = shape(svg, families.indexOf(p.m.family), px(p.x), py(p.y));
    mark.setAttribute("tabindex", 0);
    mark.setAttribute("role", "img");
    mark.setAttribute("aria-label", `${p.m.name}: ${state.metric} ${fixed(3)(p.y)}, ${title} ${number(p.x)}`);
    if (edge.includes(p)) mark.classList.add("best");
    for (const event of ["mouseenter", "focus"]) mark.addEventListener(event, () => show(p.m, mark));
    for (const event of ["mouseleave", "blur"]) mark.addEventListener(event, hide);
  }
  const taken = [], named = new Set();
  for (const p of edge) {
    if (named.has(p.m.method)) continue;
    const place = { x: px(p.x), y: py(p.y) - 9 };
    if (taken.some((t) => Math.abs(t.x - place.x) < 6.2 * Math.max(t.w, short(p.m).length) && Math.abs(t.y - place.y) < 12)) continue;
    named.add(p.m.method);
    taken.push({ ...place, w: short(p.m).length });
    const end = place.x > width - 90 ? "end" : place.x < left + 40 ? "start" : "middle";
    add(svg, "text", { ...place, "text-anchor": end, class: "name" }, short(p.m));
  }
}

const tip = add(document.body, "div", { id: "tip", role: "status" });
function show(m, mark) {
  tip.replaceChildren();
  add(tip, "strong", {}, m.name);
  add(tip, "div", { class: "faint" }, `${m.label}: ${m.what}`);
  for (const [name, f] of Object.entries(m.metrics))
    add(tip, "div", {}, `${name} ${fixed(3)(f.mean)}${f.low === null ? "" : ` [${fixed(3)(f.low)}, ${fixed(3)(f.high)}]`}`);
  add(tip, "div", {}, `${number(m.code_bytes)} B code, ${number(m.bytes_an_item)} B held an item`);
  add(tip, "div", {}, `${number(m.constant_bytes / 1e6)} MB constant`);
  add(tip, "div", {}, `p50 ${number(m.p50_ms)} ms, p99 ${number(m.p99_ms)} ms, ${number(m.queries_per_second)} queries/s`);
  add(tip, "div", {}, `built in ${number(m.build_seconds)} s, ${trained(m)}`);
  const at = mark.getBoundingClientRect();
  tip.style.display = "block";
  tip.style.left = `${Math.max(8, Math.min(at.left + 14, innerWidth - tip.offsetWidth - 8)) + scrollX}px`;
  tip.style.top = `${Math.max(8, Math.min(at.top + 14, innerHeight - tip.offsetHeight - 8)) + scrollY}px`;
}
function hide() { tip.style.display = "none"; }

/** Name, figure and format of each column. */
const COLUMNS = [
  ["method", (m) => m.name, (text) => text],
  ["code B/item", (m) => m.code_bytes, fixed(0)],
  ["held B/item", (m) => m.bytes_an_item, fixed(0)],
  ["constant MB", (m) => m.constant_bytes / 1e6, fixed(1)],
  ["all B/item", (m) => m.all_bytes_an_item, fixed(0)],
  ...DATA.metrics.map((name) => [name, (m) => value(m, name), fixed(3)]),
  ["build s", (m) => m.build_seconds, fixed(1)],
  ["p50 ms", (m) => m.p50_ms, fixed(2)],
  ["p99 ms", (m) => m.p99_ms, fixed(2)],
  ["queries/s", (m) => m.queries_per_second, fixed(0)],
];
function fill(body) {
  let rows = DATA.methods.slice();
  if (state.sort !== null) {
    const get = COLUMNS[state.sort][1], sign = state.down ? -1 : 1;
    const compare = (a, b) => typeof a === "string" ? a.localeCompare(b, "en") : a - b;
    rows = [...measured.filter((m) => get(m) !== null).sort((a, b) => sign * compare(get(a), get(b))),
      ...measured.filter((m) => get(m) === null), ...rows.filter((m) => m.error !== null)];
  }
  body.replaceChildren();
  for (const m of rows) {
    const row = add(body, "tr", m.family === OURS ? { class: "ours" } : {});
    if (m.error !== null) {
      add(row, "td", {}, m.name);
      add(row, "td", { colspan: COLUMNS.length - 1, class: "bad reason" }, `failed: ${m.error}`);
      continue;
    }
    for (const [name, get, write] of COLUMNS) {
      const cell = add(row, "td", {}, write(get(m)));
      const f = m.metrics[name];
      if (f && f.low !== null) cell.title = `95 % interval ${fixed(3)(f.low)} to ${fixed(3)(f.high)}`;
      if (name !== "method") continue;
      cell.title = `${m.label}: ${m.what}`;
      add(cell, "div", { class: "faint" }, trained(m));
    }
  }
}

add(main, "h1", {}, "Evaluation");
const verdict = add(main, "div", { class: "verdict" });
for (const sentence of DATA.verdict) add(verdict, "p", {}, sentence);
add(main, "p", {}, DATA.introduction.join(" "));
if (DATA.about.warning) add(main, "p", { class: "bad" }, `Warning: ${DATA.about.warning}`);
const controls = add(main, "p", { class: "choices" });
function choice(label, options, key) {
  const box = add(add(controls, "label", {}, `${label} `), "select", { id: key });
  for (const option of options) add(box, "option", {}, option);
  box.value = state[key];
  box.addEventListener("change", () => { state[key] = box.value; draw(); });
}
choice("Quality", DATA.metrics, "metric");
choice("Size", Object.keys(SIZES), "size");
const legend = add(main, "p", { class: "choices", "aria-label": "Families" });
families.forEach((family, i) => {
  const button = add(legend, "button", { "aria-pressed": "true" });
  shape(add(button, "svg", { width: 14, height: 14, "aria-hidden": "true" }), i, 7, 7);
  button.append(` ${family}`);
  button.addEventListener("click", () => {
    if (!hidden.delete(family)) hidden.add(family);
    button.setAttribute("aria-pressed", String(!hidden.has(family)));
    draw();
  });
});
add(main, "p", { class: "faint" }, "The dashed line is the frontier: no other point is better in both. "
  + "Point at a mark, or reach it with the tab key, to see its settings; thin lines join settings of one method.");
const charts = add(main, "div", { class: "charts" });
const bySize = add(charts, "div", { id: "size-chart" }), bySpeed = add(charts, "div", { id: "speed-chart" });
function draw() {
  hide();
  chart(bySize, state.size, SIZES[state.size], true);
  chart(bySpeed, "queries/s, all in one call", (m) => m.queries_per_second, false);
}
draw();

add(main, "h2", {}, "Every method");
const table = add(add(main, "div", { class: "scroll" }), "table");
const head = add(add(table, "thead"), "tr"), body = add(table, "tbody");
COLUMNS.forEach(([name], i) => {
  const cell = add(head, "th", { scope: "col" });
  add(cell, "button", {}, name).addEventListener("click", () => {
    state.down = state.sort === i ? !state.down : i > 0;
    state.sort = i;
    for (const other of head.children) other.removeAttribute("aria-sort");
    cell.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    fill(body);
  });
});
fill(body);
for (const note of DATA.notes) add(main, "p", { class: "faint" }, note);

add(main, "h2", {}, "Methods");
const legendList = add(main, "ul");
for (const [name, what] of new Map(DATA.methods.map((m) => [m.method, m.what]))) {
  const item = add(legendList, "li");
  add(item, "strong", {}, name);
  item.append(`: ${what}`);
}
add(main, "h2", {}, "About this run");
const about = add(add(main, "details"), "pre");
about.before(Object.assign(document.createElement("summary"), { textContent: "Table, model, machine and versions" }));
about.textContent = JSON.stringify(DATA.about, null, 2);

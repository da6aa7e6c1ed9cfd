const SIZE = 30; // Latents drawn at a time.
const HINT = 32; // Characters of a label beside a link.

const main = document.querySelector("main");
const whole = new Intl.NumberFormat("en");
const digits = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const signed = new Intl.NumberFormat("en", {
  signDisplay: "always", minimumFractionDigits: 3, maximumFractionDigits: 3,
});
const percent = (share) => `${digits.format(100 * share)} %`;
const number = (value) =>
  Math.abs(value) < 0.001 || Math.abs(value) >= 1e4
    ? (value < 0 ? "−" : "+") + Math.abs(value).toPrecision(3)
    : signed.format(value).replace("-", "−");

function make(tag, properties, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const count = DATA.numbers.length;
const placeOf = new Map(DATA.numbers.map((latent, place) => [latent, place]));
const rowName = (row) => `row ${DATA.ids[row]}`;
const labelOf = (row) => DATA.labels?.[row] || rowName(row);
const listed = count === DATA.live ? "all live" : `the ${whole.format(count)} most used`;

// What the index is as a whole.

function facts() {
  const dead = DATA.latents - DATA.live;
  const list = make("dl", { className: "facts" });
  for (const [name, value, note] of [
    ["rows", whole.format(DATA.rows), ""],
    ["latents", whole.format(DATA.latents), ""],
    ["nonzeros a row", digits.format(DATA.nonzeros), ""],
    ["live latents", whole.format(DATA.live),
      `${whole.format(dead)} dead: no row has them` +
        (count < DATA.live ? `; listed: ${listed}` : "")],
    ["list imbalance", digits.format(DATA.list_imbalance), "postings a query touches, over those of even use"],
  ]) {
    const group = make("div", {}, make("dt", {}, name), make("dd", {}, value));
    if (note) group.append(make("dd", { className: "faint" }, note));
    list.append(group);
  }
  return list;
}

/** Round shares from low to high: 1, 2 and 5 of each decade, or 1 alone where those are many. */
function ticks(low, high) {
  const least = Math.floor(Math.log10(low));
  const powers = Array.from({ length: 1 - least }, (_, i) => least + i);
  const inside = (steps) =>
    powers.flatMap((power) => steps.map((step) => Number(`${step}e${power}`)))
      .filter((share) => share >= low && share <= high);
  const all = inside([1, 2, 5]);
  if (all.length < 2) return [low, high];
  return all.length > 9 ? inside([1]) : all;
}

function histogram() {
  const { edges, bins } = DATA;
  const [width, height, left, base] = [640, 150, 8, 122];
  const svg = (tag, attributes, text) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const [low, high] = [Math.log10(edges[0]), Math.log10(edges.at(-1))];
  const x = (share) => left + ((Math.log10(share) - low) / (high - low)) * (width - 2 * left);
  const most = Math.max(...bins);
  const picture = svg("svg", {
    viewBox: `0 0 ${width} ${height}`, role: "img", class: "histogram",
    "aria-label": `Live latents by share of rows, from ${percent(edges[0])} to ` +
      `${percent(edges.at(-1))}; at most ${whole.format(most)} in a bar.`,
  });
  bins.forEach((held, i) => {
    const tall = held && Math.max((held / most) * (base - 30), 1.5); // One latent is seen too.
    const [from, to] = [x(edges[i]), x(edges[i + 1])];
    const wide = Math.max(to - from - 1, 0.5);
    const bar = svg("rect", { x: from + 0.5, y: base - tall, width: wide, height: tall });
    const range = `${percent(edges[i])} to ${percent(edges[i + 1])} of rows`;
    bar.append(svg("title", {}, `${range}: ${whole.format(held)} latents`));
    picture.append(bar);
  });
  picture.append(svg("line", { class: "axis", x1: left, x2: width - left, y1: base, y2: base }));
  for (const share of ticks(edges[0], edges.at(-1))) {
    const at = x(share);
    const anchor = at < 30 ? "start" : at > width - 30 ? "end" : "middle";
    picture.append(svg("line", { class: "axis", x1: at, x2: at, y1: base, y2: base + 5 }));
    picture.append(svg("text", { x: at, y: base + 22, "text-anchor": anchor }, percent(share)));
  }
  const even = DATA.nonzeros / DATA.latents;
  if (even >= edges[0] && even <= edges.at(-1)) {
    const at = x(even);
    const [anchor, shift] = at < width / 2 ? ["start", 5] : ["end", -5];
    const place = { x: at + shift, y: 18, "text-anchor": anchor };
    picture.append(svg("line", { class: "even", x1: at, x2: at, y1: 4, y2: base }));
    picture.append(svg("text", place, `even use: ${percent(even)}`));
  }
  return make("figure", {}, make("figcaption", { className: "faint" },
    `Live latents by the share of rows that have them; the tallest bar is ${whole.format(most)}`),
    picture);
}

// One latent.

function end(name, pairs) {
  const list = make("ol");
  for (let i = 0; i < pairs.length; i += 2) {
    const [row, value] = [pairs[i], pairs[i + 1]];
    const label = labelOf(row);
    const title = DATA.labels ? `${rowName(row)}: ${label}` : label;
    list.append(
      make("li", { className: hit?.(row) ? "hit" : "" },
        make("span", { className: "value" }, number(value)),
        make("span", { className: "label", dir: "auto", title }, label)),
    );
  }
  const what = pairs.length ? list : make("p", { className: "faint" }, "no row");
  return make("section", {}, make("h3", {}, name), what);
}

function nearest(place) {
  const line = make("p", { className: "near" }, make("span", { className: "faint" }, "near "));
  const pairs = DATA.near[place];
  for (let i = 0; i < pairs.length; i += 2) {
    const [latent, cosine] = [pairs[i], pairs[i + 1]];
    // What the near latent says where this one is positive.
    const [best] = (cosine > 0 ? DATA.positive : DATA.negative)[placeOf.get(latent)];
    const label = best === undefined || !DATA.labels ? "" : labelOf(best);
    const hint = label.length > HINT ? `${label.slice(0, HINT - 1)}…` : label;
    line.append(
      make("a", { href: `#latent-${latent}` }, `${latent}`,
        make("span", { className: "faint" }, ` ${signed.format(cosine).replace("-", "−")}`),
        make("span", { dir: "auto" }, hint && ` ${hint}`)),
      " ",
    );
  }
  return line;
}

function card(place) {
  const latent = DATA.numbers[place];
  const rows = DATA.counts[place];
  const facts = `${percent(rows / DATA.rows)} of rows (${whole.format(rows)}), ` +
    `mean |value| ${digits.format(DATA.means[place])}`;
  const name = `latent-${latent}`;
  const article = make("article", { id: name, className: "latent", tabIndex: -1 },
    make("header", {},
      make("h2", { id: `${name}-name` }, make("a", { href: `#${name}` }, `Latent ${latent}`)),
      make("span", { className: "faint" }, facts)),
    make("div", { className: "ends" },
      end("positive", DATA.positive[place]), end("negative", DATA.negative[place])));
  if (DATA.near?.[place].length) article.append(nearest(place));
  article.setAttribute("aria-labelledby", `${name}-name`);
  return article;
}

// The list: a window [from, to) of the order, drawn as far as somebody looks.

const ORDERS = {
  "most rows first": (a, b) => DATA.counts[b] - DATA.counts[a],
  "fewest rows first": (a, b) => DATA.counts[a] - DATA.counts[b],
  "largest mean |value| first": (a, b) => DATA.means[b] - DATA.means[a],
  "smallest mean |value| first": (a, b) => DATA.means[a] - DATA.means[b],
  "by number": () => 0,
};

const filter = make("input", {
  id: "filter", type: "search", autocomplete: "off", spellcheck: false,
  placeholder: DATA.labels ? "text of a label, or a number" : "number of a latent or row",
});
const sort = make("select", { id: "sort" },
  ...Object.keys(ORDERS).map((name) => make("option", {}, name)));
const wrap = make("input", { id: "wrap", type: "checkbox" });
const status = make("p", { className: "faint", role: "status" });
const earlier = make("button", { type: "button" }, "Show earlier ones");
const later = make("button", { type: "button" }, "Show more");
const list = make("div", { id: "latents" });

const lowered = DATA.labels?.map((label) => label.toLowerCase());
let order = [];
let hit = null; // Whether a row is what the filter asks for; null without a filter.
let from = 0;
let to = 0;

/** Whether the latent at a place has a row at its ends that is a hit, or the number asked for. */
function matches(asked) {
  const exact = /^(?:#|latent[ -]?)?(\d+)$/.exec(asked);
  const latent = exact ? Number(exact[1]) : -1;
  return (place) => {
    if (DATA.numbers[place] === latent) return true;
    for (const pairs of [DATA.positive[place], DATA.negative[place]])
      for (let i = 0; i < pairs.length; i += 2) if (hit(pairs[i])) return true;
    return false;
  };
}

function arrange() {
  const asked = filter.value.trim().toLowerCase();
  order = DATA.numbers.map((_, place) => place);
  hit = null;
  if (asked) {
    // Each label is looked through once, however many latents show it.
    const named = DATA.ids.map((id, row) =>
      lowered ? lowered[row].includes(asked) : String(id) === asked);
    hit = (row) => named[row];
    order = order.filter(matches(asked));
  }
  const before = ORDERS[sort.value];
  order.sort((a, b) => before(a, b) || DATA.numbers[a] - DATA.numbers[b]);
  status.textContent = order.length
    ? `${whole.format(order.length)} of ${whole.format(count)} latents`
    : "No latent matches.";
  open(0);
}

function open(place) {
  list.replaceChildren();
  from = to = place;
  draw();
}

function draw() {
  const next = Math.min(to + SIZE, order.length);
  list.append(...order.slice(to, next).map(card));
  to = next;
  earlier.hidden = from === 0;
  later.hidden = to === order.length;
  // Observed anew, for it may still be in view.
  watch.unobserve(later);
  watch.observe(later);
}

function drawEarlier() {
  const first = list.firstElementChild;
  const top = first.getBoundingClientRect().top;
  const start = Math.max(from - SIZE, 0);
  list.prepend(...order.slice(start, from).map(card));
  from = start;
  earlier.hidden = from === 0;
  // What was read stays where it was.
  scrollBy(0, first.getBoundingClientRect().top - top);
  if (earlier.hidden) list.firstElementChild.focus({ preventScroll: true });
}

function go() {
  const asked = /^#latent-(\d+)$/.exec(location.hash);
  if (!asked) return;
  const place = placeOf.get(Number(asked[1]));
  if (place === undefined) {
    status.textContent = `Latent ${asked[1]} is not listed: here are ${listed} latents.`;
    return;
  }
  let at = order.indexOf(place);
  if (at < 0) {
    filter.value = "";
    arrange();
    at = order.indexOf(place);
  }
  if (at < from || at >= to) open(at);
  const article = document.getElementById(`latent-${asked[1]}`);
  article.scrollIntoView();
  article.focus({ preventScroll: true });
}

const watch = new IntersectionObserver(
  (entries) => entries.some((entry) => entry.isIntersecting) && !later.hidden && draw(),
  { rootMargin: "800px" },
);

const controls = make("form", { className: "controls", role: "search" },
  make("label", {}, "Filter", filter), make("label", {}, "Sort", sort));
if (DATA.labels) controls.append(make("label", {}, wrap, "whole labels"));
controls.append(status);

main.append(
  make("h1", {}, document.title),
  make("p", { className: "faint" },
    "A latent is a direction; a row has it with a positive or a negative value. Its two ends are " +
    "different meanings: here are the rows farthest out at each. Press / to filter."),
  facts());
if (DATA.bins.length) main.append(histogram());
if (!DATA.near) {
  main.append(make("p", { className: "faint" },
    "No nearest latents: the index holds no model, and so no directions to compare."));
}
main.append(controls, earlier, list, later);

controls.addEventListener("submit", (event) => event.preventDefault());
filter.addEventListener("input", arrange);
sort.addEventListener("change", arrange);
wrap.addEventListener("change", () => list.classList.toggle("whole", wrap.checked));
earlier.addEventListener("click", drawEarlier);
later.addEventListener("click", draw);
addEventListener("hashchange", go);
addEventListener("click", (event) => {
  // A link to where the address already points changes nothing, and still has to lead there.
  const link = event.target.closest("a");
  if (link && link.hash === location.hash) go();
});
addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input, select");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    filter.focus();
  }
});
arrange();
go();

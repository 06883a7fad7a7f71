// Figures drawn as SVG from numbers: read by pointer or arrow keys, looked into by dragging or with + and -,
// copied as CSV, saved as SVG. Colours are variables of the page, so that light, dark and paper need no redrawing.
const EDGE = { left: 74, right: 14, top: 16, bottom: 46 }, MIDDLE = 0.5, PAPER = [720, 400];
const groups = new Map();
let serial = 0;

function node(name, attributes, parent, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

function html(name, attributes, parent, text) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

// --- numbers

const raised = (n) => String(n).replace(/./g, (c) => "⁰¹²³⁴⁵⁶⁷⁸⁹"["0123456789".indexOf(c)] ?? "⁻");

function number(v, digits = 4) {
  if (v === null || v === undefined) return "–";
  if (v === 0) return "0";
  const size = Math.abs(v);
  if (size >= 1e5 || size < 1e-3) {
    const [mantissa, power] = v.toExponential(digits - 1).split("e");
    const short = String(Number(mantissa));
    return `${short === "1" ? "" : short === "-1" ? "-" : `${short}·`}10${raised(Number(power))}`.replace("-", "−");
  }
  return Number(v.toPrecision(digits)).toLocaleString("en", { maximumSignificantDigits: digits }).replace("-", "−");
}

const counted = (axis, v) => (axis.whole && Number.isInteger(v) ? v.toLocaleString("en") : number(v));

// --- scales: values to places and back

function scale(axis) {
  const { tau } = axis;
  if (axis.scale === "log") return { to: (v) => (v > 0 ? Math.log10(v) : -400), from: (t) => 10 ** t };
  if (axis.scale !== "symlog") return { to: (v) => v, from: (t) => t };
  return {
    to: (v) => (Math.abs(v) <= tau ? (MIDDLE * v) / tau : Math.sign(v) * (MIDDLE + Math.log10(Math.abs(v) / tau))),
    from: (t) => (Math.abs(t) <= MIDDLE ? (t / MIDDLE) * tau : Math.sign(t) * tau * 10 ** (Math.abs(t) - MIDDLE)),
  };
}

function even(low, high, most) {
  const rough = (high - low) / Math.max(most, 1), unit = 10 ** Math.floor(Math.log10(rough));
  const size = unit * [1, 2, 5, 10].find((m) => m * unit >= rough * 0.75);
  const first = Math.ceil(low / size - 1e-9), found = [];
  for (let k = first; k * size <= high + 1e-9 * size; k++) found.push(Number((k * size).toPrecision(12)));
  return found;
}

function decades(axis, low, high, mantissas, every) {
  const floor = axis.scale === "symlog" ? axis.tau * 1.5 : 0, found = low <= 0 && high >= 0 && floor ? [0] : [];
  const sizes = [Math.abs(low), Math.abs(high)].filter((v) => v > 0);
  const last = Math.ceil(Math.log10(Math.max(...sizes)));
  const first = Math.floor(Math.log10(floor || Math.min(...sizes)));
  for (let k = first; k <= last; k++) {
    if ((last - k) % every) continue;
    for (const m of mantissas) {
      const v = m * 10 ** k;
      if (v >= floor) found.push(v, -v);
    }
  }
  return found.filter((v) => v >= low && v <= high).sort((a, b) => a - b);
}

function ticks(axis, [t0, t1], most) {
  const { from } = scale(axis), low = from(t0), high = from(t1);
  if (axis.scale === "linear") return even(low, high, most).filter((v) => !axis.whole || Number.isInteger(v));
  for (let every = 1; every < 60; every++) {
    const found = decades(axis, low, high, [1], every);
    if (found.length > most) continue;
    if (every > 1) return found;
    const finer = decades(axis, low, high, [1, 2, 5], 1);
    if (finer.length <= most) return finer.length > 2 ? finer : even(low, high, most);
    return found;
  }
  return [];
}

// --- what is in sight

const ends = (s, i) => (s.ends ? [s.x[i], s.ends[i]] : [s.x[i], s.x[i]]);

function range(values) {
  let low = Infinity, high = -Infinity;
  for (const v of values) if (v !== null && v !== undefined && Number.isFinite(v)) { low = Math.min(low, v); high = Math.max(high, v); }
  return low <= high ? [low, high] : null;
}

function widths(spec) {
  const { to } = scale(spec.x);
  if (spec.view) return spec.view.map(to);
  const all = range(spec.series.flatMap((s) => s.x.flatMap((_, i) => ends(s, i).map(to)))) ?? [0, 1];
  const pad = 0.02 * (all[1] - all[0]) || 0.5;
  return [all[0] - pad, all[1] + pad];
}

function heights(spec, [t0, t1]) {
  const { to } = scale(spec.x), y = scale(spec.y), seen = [];
  let bars = false;
  for (const s of spec.series) {
    if (!s.y) continue;
    bars ||= s.kind === "bars";
    s.x.forEach((_, i) => {
      const [a, b] = ends(s, i).map(to);
      if (b >= t0 && a <= t1) seen.push(s.y[i], s.low?.[i], s.high?.[i]);
    });
  }
  const positive = spec.y.scale === "log" ? seen.filter((v) => v > 0) : seen;
  const found = range(bars && spec.y.scale === "linear" ? [...positive, 0] : positive) ?? [0.6, 1];
  if (spec.y.scale === "log" && bars) return [Math.log10(0.6), Math.log10(Math.max(found[1], 1)) + 0.25];
  const [a, b] = found.map(y.to), pad = 0.07 * (b - a) || Math.abs(a) * 0.1 || 0.5;
  return [a - pad, b + pad];
}

// --- drawing

// Fills an svg element with a figure, and gives the places of all that can be pointed at.
function render(svg, spec, [width, height], view) {
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const id = `clip-${++serial}`, rows = heights(spec, view);
  const left = EDGE.left - (spec.y.label ? 0 : 22), bottom = EDGE.bottom - (spec.group ? 20 : 0);
  const box = { x: left, y: EDGE.top, w: width - left - EDGE.right, h: height - EDGE.top - bottom };
  const X = scale(spec.x), Y = scale(spec.y);
  const px = (v) => box.x + ((X.to(v) - view[0]) / (view[1] - view[0])) * box.w;
  const py = (v) => box.y + box.h - ((Y.to(v) - rows[0]) / (rows[1] - rows[0])) * box.h;
  const defs = node("defs", {}, svg);
  node("rect", { x: box.x, y: box.y - 10, width: box.w, height: box.h + 10 }, node("clipPath", { id }, defs));
  const hatch = node("pattern", { id: `${id}-h`, width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, defs);
  node("line", { x1: 0, y1: 0, x2: 0, y2: 6, class: "grid", style: "stroke:var(--grey);stroke-width:2" }, hatch);
  axes(svg, spec, box, view, rows, px, py);
  const inside = node("g", { "clip-path": `url(#${id})` }, svg);
  for (const [from, to] of spec.bands ?? []) {
    node("rect", { x: px(from), y: box.y, width: Math.max(px(to) - px(from), 2), height: box.h, style: "fill:var(--bad);opacity:.12" }, inside);
  }
  for (const at of spec.marks ?? []) upright(inside, px(at), box, "stroke:var(--open);stroke-width:1;stroke-dasharray:2 4");
  for (const [name, at] of spec.lines ?? []) {
    upright(inside, px(at), box, "stroke:var(--soft);stroke-width:1;stroke-dasharray:5 4");
    node("text", { x: px(at) + 5, y: box.y + 10, style: "fill:var(--soft);font-size:12px" }, inside, name);
  }
  const places = spec.series.flatMap((s, k) => series(inside, s, k, { box, px, py, hatch: `${id}-h` }));
  return { box, places, px, view, back: (x) => X.from(view[0] + ((x - box.x) / box.w) * (view[1] - view[0])) };
}

const upright = (parent, x, box, style) => node("line", { x1: x, x2: x, y1: box.y, y2: box.y + box.h, style }, parent);

function axes(svg, spec, box, view, rows, px, py) {
  const small = "fill:var(--soft);font-size:12px", thin = "stroke:var(--line);stroke-width:1";
  for (const v of ticks(spec.y, rows, Math.max(3, Math.floor(box.h / 42)))) {
    node("line", { x1: box.x, x2: box.x + box.w, y1: py(v), y2: py(v), style: thin }, svg);
    node("text", { x: box.x - 8, y: py(v) + 4, "text-anchor": "end", style: small }, svg, counted(spec.y, v));
  }
  for (const v of ticks(spec.x, view, Math.max(3, Math.floor(box.w / 72)))) {
    node("line", { x1: px(v), x2: px(v), y1: box.y + box.h, y2: box.y + box.h + 5, style: "stroke:var(--soft);stroke-width:1" }, svg);
    node("text", { x: px(v), y: box.y + box.h + 19, "text-anchor": "middle", style: small }, svg, counted(spec.x, v));
  }
  node("line", { x1: box.x, x2: box.x + box.w, y1: box.y + box.h, y2: box.y + box.h, style: "stroke:var(--soft);stroke-width:1" }, svg);
  const words = "fill:var(--ink);font-size:12.5px";
  if (!spec.group) node("text", { x: box.x + box.w / 2, y: box.y + box.h + 39, "text-anchor": "middle", style: words }, svg, spec.x.label);
  if (spec.y.label) node("text", { transform: `translate(13 ${box.y + box.h / 2}) rotate(-90)`, "text-anchor": "middle", style: words }, svg, spec.y.label);
}

const DRAWN = { bars: drawBars, rug: drawRug, dots: drawDots, line: drawLine, dashed: drawLine };

function series(parent, s, k, at) {
  const places = DRAWN[s.kind](parent, s, at);
  return places.map((place) => ({ ...place, s, k }));
}

function interval(parent, s, i, x, { box, py }) {
  if (!s.low || s.low[i] === null || s.high[i] === null) return;
  const top = py(s.high[i]), bottom = Math.min(py(s.low[i]), box.y + box.h);
  node("line", { x1: x, x2: x, y1: Math.max(top, -1e4), y2: Math.max(bottom, top + 1), style: "stroke:var(--ink);stroke-width:1.3" }, parent);
}

function drawBars(parent, s, at) {
  const { box, px, py } = at, floor = box.y + box.h;
  const base = Math.min(Math.max(py(0), box.y), floor);
  return s.x.map((from, i) => {
    const a = px(from), b = px(s.ends[i]), y = Math.min(py(s.y[i]), 1e5), fill = s.unsure?.[i] ? `url(#${at.hatch})` : `var(--${s.colour})`;
    node("rect", { x: a + 0.5, y: Math.min(y, base), width: Math.max(b - a - 1, 1), height: Math.max(Math.abs(base - y), 0), style: `fill:${fill}` }, parent);
    interval(parent, s, i, (a + b) / 2, at);
    return { i, x: (a + b) / 2, from: a, to: b, y };
  });
}

function drawRug(parent, s, { box, px }) {
  return s.x.map((v, i) => {
    node("line", { x1: px(v), x2: px(v), y1: box.y - 8, y2: box.y + 6, style: `stroke:var(--${s.colour});stroke-width:2` }, parent);
    return { i, x: px(v), y: box.y };
  });
}

function drawDots(parent, s, at) {
  return s.x.map((v, i) => {
    const x = at.px(v), y = s.y[i] === null ? -50 : Math.min(Math.max(at.py(s.y[i]), -50), 1e5);
    interval(parent, s, i, x, at);
    node("circle", { cx: x, cy: y, r: 3.6, style: `fill:var(--${s.colour})` }, parent);
    return { i, x, y };
  });
}

function drawLine(parent, s, { px, py }) {
  let path = "", down = false;
  const places = s.x.map((v, i) => {
    if (s.y[i] === null) { down = false; return { i, x: px(v), y: -50 }; }
    const x = px(v), y = Math.min(Math.max(py(s.y[i]), -1e4), 1e5);
    path += `${down ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
    down = true;
    return { i, x, y };
  });
  const dash = s.kind === "dashed" ? ";stroke-dasharray:6 4" : "";
  node("path", { d: path || "M0 0", style: `fill:none;stroke:var(--${s.colour});stroke-width:1.8${dash}` }, parent);
  return places;
}

// --- words

function told(spec, { s, i }) {
  const x = s.ends ? `${number(s.x[i])} to ${number(s.ends[i])}` : counted(spec.x, s.x[i]);
  if (!s.y) return `${s.name}: ${x}`;
  const held = s.low && s.low[i] !== null ? `, between ${counted(spec.y, s.low[i])} and ${counted(spec.y, s.high[i])}` : "";
  return `${s.name}: ${counted(spec.y, s.y[i])}${held} at ${x}`;
}

// Where a series is known at x: there, or the latest before; at last without x.
function latest(s, x) {
  let i = s.x.length - 1;
  while (i > 0 && (s.y[i] === null || (x !== null && s.x[i] > x))) i--;
  return i;
}

const known = (spec, x) => Math.max(...spec.series.map((s) => s.x[latest(s, x)]));

function rowsOf(spec) {
  const some = (key) => spec.series.some((s) => s[key]);
  const keys = ["ends", "y", "low", "high"].filter(some);
  const names = { ends: "to", y: spec.y.label, low: "at least", high: "at most" };
  const head = ["series", spec.x.label, ...keys.map((key) => names[key])];
  return [head, ...spec.series.flatMap((s) => s.x.map((x, i) => [s.name, x, ...keys.map((key) => s[key]?.[i] ?? "")]))];
}

// --- a figure on the page

class Chart {
  constructor(figure) {
    this.figure = figure;
    this.spec = SPECS[figure.dataset.figure];
    this.whole = widths(this.spec);
    this.view = this.whole;
    this.place = null;
    const head = figure.querySelector(".tools"), plot = figure.querySelector(".plot");
    plot.querySelector("noscript")?.remove();
    this.legend = html("ul", { class: "legend" }, null);
    plot.before(this.legend);
    this.svg = node("svg", { role: "img", "aria-label": figure.dataset.told }, plot);
    this.plot = plot;
    plot.tabIndex = 0;
    plot.setAttribute("role", "group");
    plot.setAttribute("aria-label", `${this.spec.title}: arrow keys read the values, plus and minus zoom, Escape shows all`);
    this.read = html("p", { class: "read" }, null);
    plot.after(this.read);
    this.reset = tool("Show all", this.spec.title, () => { this.look(this.whole); this.plot.focus(); });
    head.append(this.reset, tool("Copy as CSV", this.spec.title, (b) => copy(csv(rowsOf(this.spec)), b, "Numbers")));
    head.append(tool("Save as SVG", this.spec.title, (b) => this.save(b)));
    if (this.spec.group) groups.set(this.spec.group, [...(groups.get(this.spec.group) ?? []), this]);
    this.listen();
    this.label(null);
    this.draw();
    addEventListener("resize", () => this.draw());
  }

  draw() {
    const width = Math.max(this.plot.clientWidth, 260);
    if (width === this.width && this.view === this.drawn) return;
    [this.width, this.drawn] = [width, this.view];
    this.seen = render(this.svg, this.spec, [width, Math.min(Math.max(width * 0.42, 230), 380)], this.view);
    this.cursor = node("g", { style: "pointer-events:none" }, this.svg);
    this.reset.hidden = this.view === this.whole;
    if (this.place !== null) this.point(this.place);
  }

  look(view) {
    const [a, b] = view, full = this.whole;
    this.view = b - a >= full[1] - full[0] - 1e-9 && !this.spec.view ? full : view;
    this.place = null;
    this.draw();
    this.point(null);
  }

  // Zooms by a factor around what is read, or around the middle.
  zoom(factor) {
    const [a, b] = this.view, { to } = scale(this.spec.x);
    const middle = this.place ? to(this.place.s.x[this.place.i]) : (a + b) / 2, half = ((b - a) * factor) / 2;
    this.look([middle - half, middle + half]);
  }

  label(x) {
    const own = !this.spec.group || x === null || x === undefined ? null : x;
    this.legend.replaceChildren();
    if (this.spec.group) html("li", {}, this.legend, `${this.spec.x.label} ${counted(this.spec.x, known(this.spec, own))}`);
    if (this.spec.series.length < 2 && !this.spec.group) return;
    for (const s of this.spec.series) {
      const item = html("li", {}, this.legend);
      html("span", { class: `key ${s.kind}`, style: `--key:var(--${s.colour})` }, item);
      item.append(s.name);
      if (this.spec.group) html("b", {}, item, ` ${number(s.y[latest(s, own)])}`);
    }
  }

  point(place, others = true) {
    this.place = place;
    this.cursor?.replaceChildren();
    this.read.textContent = place === null || this.spec.group ? "" : told(this.spec, place);
    if (this.spec.group && others) for (const chart of groups.get(this.spec.group)) chart.follow(place === null ? null : place.s.x[place.i]);
    if (place === null || this.spec.group) return;
    const now = this.seen.places.find((p) => p.k === place.k && p.i === place.i);
    if (!now) return;
    upright(this.cursor, now.x, this.seen.box, "stroke:var(--soft);stroke-width:1");
    node("circle", { cx: now.x, cy: now.y, r: 5, style: "fill:none;stroke:var(--ink);stroke-width:1.6" }, this.cursor);
  }

  follow(x) {
    this.cursor?.replaceChildren();
    this.label(x);
    if (x === null || !this.seen) return;
    const at = this.seen.px(x), { box } = this.seen;
    if (at >= box.x && at <= box.x + box.w) upright(this.cursor, at, box, "stroke:var(--soft);stroke-width:1");
  }

  nearest(x, y) {
    let best = null, least = Infinity;
    for (const p of this.seen.places) {
      const across = p.from === undefined ? Math.abs(p.x - x) : Math.max(p.from - x, x - p.to, 0);
      const far = this.spec.group ? across : Math.hypot(across, p.from === undefined ? 0.6 * (p.y - y) : 0);
      if (far < least) [best, least] = [p, far];
    }
    return best;
  }

  step(by) {
    const [a, b] = [this.seen.box.x - 1, this.seen.box.x + this.seen.box.w + 1];
    const order = this.seen.places.filter((p) => p.x >= a && p.x <= b).sort((p, q) => p.x - q.x || p.k - q.k);
    if (!order.length) return;
    const now = this.place ? order.findIndex((p) => p.k === this.place.k && p.i === this.place.i) : -1;
    const next = Math.abs(by) === Infinity ? (by > 0 ? order.length - 1 : 0) : Math.min(Math.max(now + by, 0), order.length - 1);
    this.point(order[next]);
    say(told(this.spec, order[next]));
  }

  listen() {
    const { svg } = this;
    let start = null;
    const at = (e) => { const r = svg.getBoundingClientRect(), k = this.width / r.width; return [(e.clientX - r.left) * k, (e.clientY - r.top) * k]; };
    svg.addEventListener("pointerdown", (e) => { if (e.button === 0) { start = at(e); svg.setPointerCapture(e.pointerId); } });
    svg.addEventListener("pointermove", (e) => {
      const [x, y] = at(e);
      if (start === null || Math.abs(x - start[0]) < 6) { this.point(this.nearest(x, y)); return; }
      this.cursor.replaceChildren();
      const { box } = this.seen;
      node("rect", { x: Math.min(x, start[0]), y: box.y, width: Math.abs(x - start[0]), height: box.h, style: "fill:var(--accent);opacity:.15" }, this.cursor);
    });
    svg.addEventListener("pointerup", (e) => {
      const [x] = at(e), from = start;
      start = null;
      if (from === null || Math.abs(x - from[0]) < 6) return;
      const { to } = scale(this.spec.x), clamp = (v) => Math.min(Math.max(v, this.seen.box.x), this.seen.box.x + this.seen.box.w);
      this.look([from[0], x].map(clamp).sort((a, b) => a - b).map((v) => to(this.seen.back(v))));
    });
    svg.addEventListener("pointercancel", () => { start = null; });
    svg.addEventListener("pointerleave", () => { if (start === null) this.point(null); });
    svg.addEventListener("dblclick", () => this.look(this.whole));
    this.plot.addEventListener("keydown", (e) => {
      const keys = { ArrowRight: () => this.step(1), ArrowLeft: () => this.step(-1), Home: () => this.step(-Infinity), End: () => this.step(Infinity), "+": () => this.zoom(0.5), "=": () => this.zoom(0.5), "-": () => this.zoom(2), Escape: () => this.look(this.whole) };
      if (!keys[e.key] || e.ctrlKey || e.metaKey || e.altKey) return;
      keys[e.key]();
      e.preventDefault();
    });
  }

  // On paper: light colours in place of variables, a title, and the legend inside.
  save(button) {
    const paper = html("div", { class: "paper", "aria-hidden": "true" }, document.body);
    const svg = node("svg", {}, paper), names = this.spec.series.length > 1 ? this.spec.series : [], head = 30 + 18 * names.length;
    render(svg, this.spec, PAPER, this.view);
    for (const [i, s] of names.entries()) {
      node("rect", { x: EDGE.left, y: i * 18 - 18 * names.length - 2, width: 12, height: 8, style: `fill:var(--${s.colour})` }, svg);
      node("text", { x: EDGE.left + 18, y: i * 18 - 18 * names.length + 6, style: "fill:var(--ink);font-size:12px" }, svg, s.name);
    }
    node("text", { x: EDGE.left, y: 8 - head, style: "fill:var(--ink);font-size:15px;font-weight:600" }, svg, this.spec.title);
    svg.setAttribute("viewBox", `0 ${-head - 10} ${PAPER[0]} ${PAPER[1] + head + 10}`);
    for (const part of svg.querySelectorAll("[style]")) {
      const look = getComputedStyle(part);
      for (const name of ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-size", "font-weight"]) part.setAttribute(name, look.getPropertyValue(name).replace(/^url\(.*#/, "url(#").replace('")', ")"));
      part.removeAttribute("style");
    }
    svg.prepend(node("rect", { x: 0, y: -head - 10, width: PAPER[0], height: PAPER[1] + head + 10, fill: "#ffffff" }));
    for (const [key, value] of Object.entries({ xmlns: "http://www.w3.org/2000/svg", width: PAPER[0], height: PAPER[1] + head + 10, "font-family": "system-ui, sans-serif" })) svg.setAttribute(key, value);
    download(svg.outerHTML, this.figure.dataset.figure);
    paper.remove();
    const label = button.textContent;
    button.textContent = "Saved";
    setTimeout(() => { button.textContent = label; }, 1500);
  }
}

const charts = [...document.querySelectorAll("figure[data-figure]")].map((figure) => new Chart(figure));

// Draws the curves of a run with uPlot, in the colours of the page, all under one cursor.
const curves = JSON.parse(document.getElementById("curves").textContent);
const boxes = [...document.querySelectorAll(".curve")];
const HEIGHT = 240;
let drawn = [];

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function number(x) {
  if (x === null || x === undefined) return "";
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (size >= 1e5 || size < 1e-3) return x.toExponential(3).replace(/\.?0+e/, "e").replace("e+", "e");
  return String(Number(x.toPrecision(4)));
}

// What the legend says: the value under the cursor, or the latest before it; the last without one.
function told(u, i, at) {
  let k = at === null || at === undefined ? u.data[i].length - 1 : at;
  while (k > 0 && (u.data[i][k] === null || u.data[i][k] === undefined)) k--;
  return u.data[i][k];
}

const step = (x) => (x === null || x === undefined ? "" : x.toLocaleString("en"));
const decades = (u, splits) => splits.map((x) => (x > 0 && Math.abs(Math.log10(x) % 1) < 1e-9 ? x : null));

function series(curve, i) {
  const stroke = curve.style === "dashed" ? colour("--limit") : colour("--c" + (i % 6));
  const look = { label: curve.label, stroke, width: 1.5, spanGaps: true, value: (u, v, k, at) => number(told(u, k, at)) };
  if (curve.style === "dashed") return { ...look, dash: [6, 4], points: { show: false } };
  if (curve.style === "dots") return { ...look, paths: () => null, points: { show: true, size: 5, fill: stroke } };
  return look;
}

function marks(u) {
  const { ctx, bbox } = u;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  ctx.fillStyle = colour("--bad");
  ctx.globalAlpha = 0.1;
  for (const [first, last] of curves.bands) {
    const left = u.valToPos(first, "x", true), right = u.valToPos(last, "x", true);
    ctx.fillRect(left, bbox.top, Math.max(right - left, 2), bbox.height);
  }
  ctx.globalAlpha = 0.7;
  ctx.strokeStyle = colour("--open");
  ctx.setLineDash([2, 4]);
  for (const step of curves.marks) {
    const at = Math.round(u.valToPos(step, "x", true)) + 0.5;
    ctx.beginPath();
    ctx.moveTo(at, bbox.top);
    ctx.lineTo(at, bbox.top + bbox.height);
    ctx.stroke();
  }
  ctx.restore();
}

function chart(box, { log, curves: lines }) {
  const grid = { stroke: colour("--line"), width: 1 };
  const axis = { stroke: colour("--soft"), grid, ticks: grid, font: "12px system-ui, sans-serif" };
  const ends = curves.span[0] === curves.span[1] ? [curves.span[0] - 1, curves.span[1] + 1] : curves.span;
  const options = {
    width: box.clientWidth, height: HEIGHT,
    cursor: { sync: { key: "steps" }, y: false },
    scales: { x: { time: false }, y: { distr: log ? 3 : 1 } },
    axes: [
      { ...axis, values: (u, values) => values.map(step) },
      { ...axis, size: 62, values: (u, values) => values.map(number), ...(log ? { grid: { ...grid, filter: decades }, ticks: { ...grid, filter: decades } } : {}) },
    ],
    series: [{ label: "step", value: (u, x, k, at) => step(told(u, 0, at)) }, ...lines.map(series)],
    hooks: { drawClear: [marks] },
  };
  return new uPlot(options, uPlot.join([[ends], ...lines.map(({ x, y }) => [x, y])]), box);
}

function draw() {
  for (const plot of drawn) plot.destroy();
  drawn = boxes.map((box, i) => chart(box, curves.charts[i]));
}

draw();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
addEventListener("resize", () => boxes.forEach((box, i) => drawn[i].setSize({ width: box.clientWidth, height: HEIGHT })));

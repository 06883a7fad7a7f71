// A surface z(a, b) on a canvas: patches from the farthest to the nearest, in an oblique view.
const surface = JSON.parse(document.getElementById("surface").textContent);
const scene = document.querySelector(".scene"), canvas = scene.querySelector("canvas");
const read = scene.querySelector(".read"), box = scene.querySelector("input");
const STOPS = [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129], [92, 200, 99], [170, 220, 50], [253, 231, 37]];
const view = { turn: 0.7, tilt: 0.55 };
let points = [], logarithmic = surface.log, pointed = null;

const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const short = (x) => (x === 0 ? "0" : Math.abs(x) >= 1e5 || Math.abs(x) < 1e-3 ? x.toExponential(2).replace("e+", "e") : String(Number(x.toPrecision(4))));
const [A, B] = surface.axes;
const known = surface.losses.flat().filter((z) => z !== null);
const positive = known.every((z) => z > 0);
const part = (x, axis) => (x - axis[0]) / (axis[axis.length - 1] - axis[0]) - 0.5;

function heights() {
  const f = logarithmic ? Math.log10 : (z) => z;
  let low = Infinity, high = -Infinity;
  for (const z of known) { low = Math.min(low, f(z)); high = Math.max(high, f(z)); }
  const width = high - low || 1;
  return (z) => (f(z) - low) / width;
}

function colour(t) {
  const at = Math.min(Math.max(t, 0), 1) * (STOPS.length - 1), i = Math.min(Math.floor(at), STOPS.length - 2);
  return "rgb(" + STOPS[i].map((c, k) => Math.round(c + (at - i) * (STOPS[i + 1][k] - c))).join(",") + ")";
}

// x, y in [-1/2, 1/2] and height in [0, 1] to [right, down, nearness].
function projected(x, y, h, size) {
  const s = Math.sin(view.turn), c = Math.cos(view.turn);
  const right = c * x - s * y, away = s * x + c * y, up = 0.62 * (h - 0.5);
  const flat = Math.sin(view.tilt), steep = Math.cos(view.tilt);
  return [size[0] / 2 + right * size[2], size[1] / 2 - (up * steep + away * flat) * size[2], -away * steep + up * flat];
}

function draw() {
  const ratio = devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const ctx = canvas.getContext("2d"), size = [width, height, Math.min(width * 0.55, height * 0.68)], h = heights();
  ctx.scale(ratio, ratio);
  ctx.font = "12px system-ui, sans-serif";
  points = surface.losses.map((row, i) => row.map((z, j) => (z === null ? null : projected(part(A[i], A), part(B[j], B), h(z), size))));
  frame(ctx, size);
  const patches = [];
  for (let i = 0; i + 1 < A.length; i++) {
    for (let j = 0; j + 1 < B.length; j++) {
      const corners = [points[i][j], points[i + 1][j], points[i + 1][j + 1], points[i][j + 1]];
      if (corners.includes(null)) continue;
      const z = [[i, j], [i + 1, j], [i + 1, j + 1], [i, j + 1]].reduce((sum, [k, l]) => sum + h(surface.losses[k][l]), 0) / 4;
      patches.push([corners.reduce((sum, p) => sum + p[2], 0), corners, colour(z)]);
    }
  }
  patches.sort((p, q) => p[0] - q[0]);
  ctx.lineWidth = 0.6;
  for (const [, corners, fill] of patches) {
    ctx.beginPath();
    corners.forEach((p, k) => (k ? ctx.lineTo(p[0], p[1]) : ctx.moveTo(p[0], p[1])));
    ctx.closePath();
    ctx.fillStyle = ctx.strokeStyle = fill;
    ctx.fill();
    ctx.stroke();
  }
  overlay(ctx, size, h);
}

function frame(ctx, size) {
  ctx.strokeStyle = ink("--line");
  ctx.fillStyle = ink("--soft");
  const floor = [[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]].map(([x, y]) => projected(x, y, 0, size));
  ctx.beginPath();
  floor.forEach((p, k) => (k ? ctx.lineTo(p[0], p[1]) : ctx.moveTo(p[0], p[1])));
  ctx.closePath();
  ctx.stroke();
  const near = (x, y) => projected(x, y, 0, size)[2];
  const y = near(0, -0.5) > near(0, 0.5) ? -0.5 : 0.5, x = near(-0.5, 0) > near(0.5, 0) ? -0.5 : 0.5;
  label(ctx, projected(0, y * 1.36, 0, size), surface.names[0]);
  label(ctx, projected(x * 1.36, 0, 0, size), surface.names[1]);
  for (const [at, axis, place] of [[0, A, (t) => [t, y * 1.12]], [1, B, (t) => [x * 1.12, t]]]) {
    for (const t of [-0.5, 0.5]) label(ctx, projected(...place(0.9 * t), 0, size), short(axis[t < 0 ? 0 : axis.length - 1]));
  }
}

function label(ctx, p, text) {
  ctx.textAlign = "center";
  ctx.textBaseline = "middle";
  ctx.fillText(text, p[0], p[1]);
}

// Height of the surface at coordinates, between its points.
function between(a, b) {
  const cell = (x, axis) => {
    let i = axis.findIndex((edge) => edge > x) - 1;
    if (i < 0) i = x < axis[0] ? -1 : axis.length - 2;
    return [i, i < 0 ? 0 : (x - axis[i]) / (axis[i + 1] - axis[i])];
  };
  const [i, s] = cell(a, A), [j, t] = cell(b, B);
  if (i < 0 || j < 0 || s > 1 || t > 1) return null;
  const z = [surface.losses[i][j], surface.losses[i + 1][j], surface.losses[i][j + 1], surface.losses[i + 1][j + 1]];
  return z.includes(null) ? null : (1 - t) * ((1 - s) * z[0] + s * z[1]) + t * ((1 - s) * z[2] + s * z[3]);
}

function overlay(ctx, size, h) {
  ctx.beginPath();
  let down = false;
  for (const [a, b] of surface.path) {
    const z = between(a, b);
    if (z === null) { down = false; continue; }
    const p = projected(part(a, A), part(b, B), h(z), size);
    if (down) ctx.lineTo(p[0], p[1]); else ctx.moveTo(p[0], p[1]);
    down = true;
  }
  for (const [style, width] of [["#ffffff", 3.5], [ink("--bad"), 1.8]]) {
    ctx.strokeStyle = style;
    ctx.lineWidth = width;
    ctx.stroke();
  }
  ctx.strokeStyle = "#ffffff";
  ctx.fillStyle = ink("--bad");
  const inside = A[0] <= 0 && B[0] <= 0 && A[A.length - 1] >= 0 && B[B.length - 1] >= 0;
  if (inside && surface.theta !== null && (!logarithmic || surface.theta > 0)) {
    const p = projected(part(0, A), part(0, B), h(surface.theta), size);
    ctx.beginPath();
    ctx.arc(p[0], p[1], 5, 0, 2 * Math.PI);
    ctx.fill();
    ctx.stroke();
    ctx.textAlign = "left";
    ctx.lineWidth = 3;
    ctx.strokeText("θ", p[0] + 9, p[1]);
    ctx.fillText("θ", p[0] + 9, p[1]);
  }
  if (pointed !== null) {
    const p = points[pointed[0]][pointed[1]];
    ctx.fillStyle = ink("--ink");
    ctx.beginPath();
    ctx.arc(p[0], p[1], 3.5, 0, 2 * Math.PI);
    ctx.fill();
  }
}

function told() {
  const lines = [`1 on an axis: ${surface.unit}`, `loss ${short(Math.min(...known))} to ${short(Math.max(...known))}, at θ ${surface.theta === null ? "not finite" : short(surface.theta)}`];
  if (pointed !== null) {
    const [i, j] = pointed;
    lines.push(`at (${short(A[i])}, ${short(B[j])}): ${short(surface.losses[i][j])}`);
  }
  read.textContent = lines.join("\n");
}

function point(x, y) {
  let best = 400;
  pointed = null;
  points.forEach((row, i) => row.forEach((p, j) => {
    const far = p === null ? Infinity : (p[0] - x) ** 2 + (p[1] - y) ** 2 - 20 * p[2];
    if (far < best) { best = far; pointed = [i, j]; }
  }));
}

function show() { draw(); told(); }
function turned(right, up) {
  view.turn += right;
  view.tilt = Math.min(Math.max(view.tilt + up, 0.05), 1.5);
  show();
}

let last = null;
canvas.addEventListener("pointerdown", (e) => { last = [e.clientX, e.clientY]; canvas.setPointerCapture(e.pointerId); });
canvas.addEventListener("pointerup", () => { last = null; });
canvas.addEventListener("pointermove", (e) => {
  if (last !== null) {
    turned((e.clientX - last[0]) / 150, (e.clientY - last[1]) / 200);
    last = [e.clientX, e.clientY];
    return;
  }
  const at = canvas.getBoundingClientRect();
  point(e.clientX - at.left, e.clientY - at.top);
  show();
});
canvas.addEventListener("pointerleave", () => { pointed = null; show(); });
canvas.addEventListener("keydown", (e) => {
  const moves = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.08], ArrowDown: [0, -0.08] };
  if (moves[e.key]) { turned(...moves[e.key]); e.preventDefault(); }
});
box.checked = logarithmic;
box.disabled = !positive;
box.addEventListener("change", () => { logarithmic = box.checked; show(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
addEventListener("resize", show);
show();

document.querySelector("figure[data-losses] .tools").append(tool("Copy as CSV", "losses", (button) => {
  const rows = A.flatMap((a, i) => B.map((b, j) => [a, b, surface.losses[i][j] ?? ""]));
  copy(csv([[...surface.names, "loss"], ...rows]), button, `${rows.length} losses`);
}));

// The curves of a run as figures over one axis of steps, all under one cursor.
const RUN = JSON.parse(document.getElementById("curves").textContent);
const SPAN = RUN.span[0] === RUN.span[1] ? [RUN.span[0] - 1, RUN.span[1] + 1] : RUN.span;

const SPECS = Object.fromEntries(RUN.charts.map(({ title, log, curves }, i) => [`curve-${i}`, {
  title,
  group: "steps",
  view: SPAN,
  x: { label: "step", scale: "linear", whole: true },
  y: { label: "", scale: log ? "log" : "linear" },
  bands: RUN.bands,
  marks: RUN.marks,
  lines: [],
  series: curves.map(({ label, style, x, y }, k) => ({ name: label, kind: style, colour: style === "dashed" ? "grey" : `c${k % 6}`, x, y })),
}]));

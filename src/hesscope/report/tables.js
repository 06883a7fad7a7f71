"use strict";
// Tables that sort and are copied; without scripts they are read as they stand.
function say(text) {
  const status = document.querySelector('[role="status"]');
  status.textContent = "";
  setTimeout(() => { status.textContent = text; }, 50);
}

// Where the clipboard is closed to a page from a file, a selection is copied.
async function copy(text, button, what) {
  let done = false;
  try {
    await navigator.clipboard.writeText(text);
    done = true;
  } catch {
    const area = document.body.appendChild(document.createElement("textarea"));
    area.value = text;
    area.select();
    done = document.execCommand("copy");
    area.remove();
    button.focus();
  }
  const label = button.textContent;
  button.textContent = done ? "Copied" : "Not copied";
  say(done ? `${what} copied` : "The browser lets nothing be copied from this page");
  setTimeout(() => { button.textContent = label; }, 1500);
}

const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
const csv = (rows) => rows.map((row) => row.map((item) => quoted(String(item))).join(",")).join("\n") + "\n";
const exact = (cell) => cell.dataset.value ?? cell.textContent;
const ENDS = { inf: Infinity, "-inf": -Infinity };

function tool(label, about, act) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "tool";
  button.textContent = label;
  button.setAttribute("aria-label", `${label}: ${about}`);
  button.addEventListener("click", () => act(button));
  return button;
}

function download(svg, name) {
  const link = document.body.appendChild(document.createElement("a"));
  link.href = URL.createObjectURL(new Blob([svg], { type: "image/svg+xml" }));
  link.download = `${name}.svg`;
  link.click();
  setTimeout(() => { URL.revokeObjectURL(link.href); link.remove(); }, 1000);
  say("Figure saved");
}

function key(row, column) {
  const cell = row.cells[column];
  if (cell.dataset.value === undefined) return cell.textContent;
  return ENDS[cell.dataset.value] ?? Number(cell.dataset.value);
}

// What is not known stands last, in both orders.
function compare(a, b, down) {
  const known = [a, b].map((x) => !Number.isNaN(x));
  if (!(known[0] && known[1])) return known[1] - known[0];
  const order = typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : (a > b) - (a < b);
  return down ? -order : order;
}

function sort(head) {
  const body = head.closest("table").tBodies[0], column = head.cellIndex;
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = [...body.rows].map((row) => [key(row, column), row]);
  rows.sort(([a], [b]) => compare(a, b, down)).forEach(([, row]) => body.append(row));
}

for (const table of document.querySelectorAll("table")) {
  const caption = table.caption ? table.caption.textContent : "table", box = table.closest(".table");
  if (table.tBodies[0].rows.length > 1) {
    for (const head of table.tHead.rows[0].cells) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(head));
      head.append(button);
    }
  }
  if (box === null) continue;
  const bar = document.createElement("div");
  bar.className = "bar";
  bar.append(tool("Copy as CSV", caption, (button) => {
    const rows = [...table.rows].map((row) => [...row.cells].map(exact));
    copy(csv(rows), button, `${rows.length - 1} rows`);
  }));
  box.prepend(bar);
}

for (const figure of document.querySelectorAll("figure[data-svg]")) {
  const name = figure.dataset.svg;
  figure.querySelector(".tools").append(tool("Save as SVG", name, () => {
    const svg = figure.querySelector("svg").cloneNode(true);
    svg.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    svg.setAttribute("style", "background:#ffffff;color:#000000");
    download(svg.outerHTML, name.replaceAll(" ", "-"));
  }));
}

"use strict";
// Sorting, filtering, and a chart of the learning curves; the page is complete without any of it.

const number = (text) => {
  const found = text.replace(/,/g, "").replace(/\u2212/g, "-").match(/-?\d+(\.\d+)?/);
  return found ? parseFloat(found[0]) : null;
};

const sort = (table, column, ascending) => {
  const body = table.tBodies[0];
  const keyed = Array.from(body.rows, (row) => {
    const text = row.cells[column].textContent.trim();
    return { row, text, value: column === 0 ? null : number(text) };
  });
  const gap = (one) => column > 0 && one.text === "\u2013";
  keyed.sort((one, two) => {
    if (gap(one) !== gap(two)) return gap(one) ? 1 : -1; // gaps stay below
    const order = one.value !== null && two.value !== null ? one.value - two.value : one.text.localeCompare(two.text);
    return ascending ? order : -order;
  });
  body.append(...keyed.map((one) => one.row));
};

const sortable = (table) => {
  const heads = Array.from(table.tHead.rows[0].cells);
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.textContent = "";
    head.append(button);
    button.addEventListener("click", () => {
      const ascending = head.getAttribute("aria-sort") === "descending" || (column === 0 && !head.hasAttribute("aria-sort"));
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      sort(table, column, ascending);
    });
  });
};

const filterable = (tables, place) => {
  const [table] = tables;
  const holder = document.createElement("div");
  holder.className = "filter";
  const label = document.createElement("label");
  label.textContent = "Show strategies with ";
  const input = document.createElement("input");
  input.type = "search";
  input.id = `filter-${place}`;
  label.htmlFor = input.id;
  const shown = document.createElement("span");
  shown.setAttribute("role", "status");
  input.addEventListener("input", () => {
    const wanted = input.value.toLowerCase();
    tables.flatMap((one) => Array.from(one.tBodies[0].rows)).forEach((row) => {
      row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
    });
    const rows = Array.from(table.tBodies[0].rows);
    shown.textContent = wanted ? `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows` : "";
  });
  holder.append(label, input, shown);
  table.parentElement.before(holder);
};

const SVG = "http://www.w3.org/2000/svg";
const shape = (kind, attributes, text) => {
  const made = document.createElementNS(SVG, kind);
  Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
  if (text !== undefined) made.textContent = text;
  return made;
};

const chart = (figure, curves) => {
  const width = Math.max(300, Math.min(1100, figure.parentElement.clientWidth)); // type stays as large as it is
  const [height, left, bottom, top, right] = [Math.min(340, 0.75 * width), 46, 40, 12, 12];
  const xs = [...new Set(curves.flatMap((curve) => curve.points.map((point) => point[0])))].sort((a, b) => a - b);
  const ys = curves.flatMap((curve) => curve.points.map((point) => point[1]));
  const range = Math.max(...ys) - Math.min(...ys);
  const step = [1, 2, 5, 10, 20].find((one) => range / one <= 5) || 20; // ticks at its multiples
  const low = Math.max(0, step * Math.floor((Math.min(...ys) - 0.5) / step));
  const high = Math.min(100, step * Math.ceil((Math.max(...ys) + 0.5) / step));
  const x = (value) => left + ((width - left - right) * value) / xs[xs.length - 1];
  const y = (value) => height - bottom - ((height - bottom - top) * (value - low)) / Math.max(high - low, 1);
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, tabindex: 0, role: "application",
    "aria-label": "Online k-NN accuracy by epoch. Left and right arrow keys move through the epochs." });
  for (let value = low; value <= high; value += step) {
    svg.append(shape("line", { x1: left, x2: width - right, y1: y(value), y2: y(value), class: "axis" }));
    svg.append(shape("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, `${value} %`));
  }
  const every = Math.ceil(xs.length / (width / 60));
  xs.forEach((value, place) => {
    if (place % every === 0) svg.append(shape("text", { x: x(value), y: height - bottom + 16, "text-anchor": "middle" }, value));
  });
  svg.append(shape("text", { x: (left + width) / 2, y: height - 6, "text-anchor": "middle" }, "epoch"));
  curves.forEach((curve) => {
    const points = curve.points.map((point) => `${x(point[0])},${y(point[1])}`).join(" ");
    svg.append(shape("polyline", { points, fill: "none", stroke: curve.color, "stroke-width": 2 }));
    const dot = { r: 3, fill: curve.color };
    if (xs.length <= 20) curve.points.forEach((point) => svg.append(shape("circle", { cx: x(point[0]), cy: y(point[1]), ...dot })));
  });
  const cursor = shape("line", { y1: top, y2: height - bottom, class: "cursor" });
  svg.append(cursor);
  const told = document.createElement("output");
  told.setAttribute("aria-live", "polite");
  let place = xs.length - 1;
  const tell = () => {
    cursor.setAttribute("x1", x(xs[place]));
    cursor.setAttribute("x2", x(xs[place]));
    const read = curves.map((curve) => [curve, curve.points.find((point) => point[0] === xs[place])]);
    const known = read.filter((one) => one[1]).sort((one, two) => two[1][1] - one[1][1]);
    told.replaceChildren(`Epoch ${xs[place]}: `, ...known.map(([curve, point]) => {
      const item = document.createElement("span");
      const colour = document.createElement("i");
      colour.style.background = curve.color;
      item.append(colour, `${curve.label} ${point[1].toFixed(1)} %`);
      return item;
    }));
  };
  svg.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1, Home: -xs.length, End: xs.length }[event.key];
    if (move === undefined) return;
    event.preventDefault();
    place = Math.min(xs.length - 1, Math.max(0, place + move));
    tell();
  });
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * width;
    place = xs.reduce((best, value, index) => (Math.abs(x(value) - at) < Math.abs(x(xs[best]) - at) ? index : best), 0);
    tell();
  });
  tell();
  figure.classList.add("live");
  figure.querySelector("img").replaceWith(svg, told);
};

document.querySelectorAll("table.sortable").forEach((table, place) => {
  sortable(table);
  if (table.tBodies[0].rows.length <= 4 || table.classList.contains("costs")) return;
  filterable([table, ...table.closest("section").querySelectorAll("table.costs")], place); // the costs of the same rows
});
document.querySelectorAll("figure.curves").forEach((figure) => {
  const curves = JSON.parse(document.getElementById(figure.dataset.curves).textContent);
  if (curves.length && curves.length <= 60) chart(figure, curves);
});

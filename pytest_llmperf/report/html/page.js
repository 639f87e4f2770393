"use strict";
// Draws the figures of closed points when they come into view: a report of a hundred points has some six hundred.
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
const ROLES = { now: "c0", baseline: "c1", queue: "queue", prefill: "prefill", decode: "decode", bad: "bad" };
const roleColour = (meta) => colour(typeof meta === "number" ? "c" + (meta % 6) : ROLES[meta] || "c0");

function painted(trace) {
  const own = roleColour(trace.meta);
  const line = { width: 2.5, ...trace.line, color: own };
  if (trace.meta === "baseline") line.dash = "dash";
  if (typeof trace.meta === "number") line.dash = ["solid", "dash", "dot", "dashdot"][trace.meta % 4];
  const fill = trace.fill ? { fillcolor: own + "33" } : {};
  const marker = { size: 9, ...trace.marker, color: own };
  if (trace.marker && trace.marker.line) marker.line = { ...trace.marker.line, color: own };
  return { ...trace, line: trace.type === "bar" ? undefined : line, marker, ...fill };
}

function laidOut(layout, narrow) {
  const axis = { gridcolor: colour("grid"), zerolinecolor: colour("line"), automargin: true };
  const axes = Object.keys(layout).filter((key) => /^[xy]axis/.test(key));
  const ink = colour("ink");
  return {
    ...layout,
    ...Object.fromEntries(axes.map((key) => [key, { ...axis, ...layout[key] }])),
    shapes: (layout.shapes || []).map((shape) => ({ ...shape, line: { ...shape.line, color: colour("bad"), width: 2 } })),
    annotations: (layout.annotations || []).map((note) => ({ ...note, font: { color: colour(note.name === "label" ? "quiet" : "bad") } })),
    font: { family: "system-ui, sans-serif", size: narrow ? 11 : 13, color: ink },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 20, r: 20, t: 10, b: 20, ...layout.margin },
    legend: { orientation: "h", y: -0.25, ...layout.legend },
    hoverlabel: { font: { size: 13 } },
    height: layout.height || 340,
  };
}

function draw(chart) {
  const figure = JSON.parse(document.getElementById(chart.dataset.figure).textContent);
  const narrow = chart.clientWidth < 420;
  const options = { responsive: true, displaylogo: false, displayModeBar: false };
  Plotly.react(chart, figure.data.map(painted), laidOut(figure.layout, narrow), options).then(() => (chart.dataset.drawn = "yes"));
}

const charts = [...document.querySelectorAll(".chart")];
const watcher = new IntersectionObserver((seen) => {
  for (const entry of seen) {
    if (entry.isIntersecting) {
      watcher.unobserve(entry.target);
      if (!entry.target.dataset.drawn) draw(entry.target);
    }
  }
}, { rootMargin: "400px" });
for (const chart of charts) watcher.observe(chart);

// Pictures of the whole page, and printers, see what no window shows: charts of closed points alone wait to be seen.
charts.filter((chart) => !chart.closest("details.point:not([open])")).forEach(draw);

const redraw = () => charts.filter((chart) => chart.dataset.drawn).forEach(draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
addEventListener("beforeprint", () => {
  document.querySelectorAll("details.point").forEach((point) => (point.open = true));
  charts.filter((chart) => !chart.dataset.drawn).forEach(draw);
});

function openTarget() {
  const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
  if (target && target.tagName === "DETAILS") target.open = true;
}
addEventListener("hashchange", openTarget);
document.addEventListener("click", (event) => {
  const link = event.target.closest && event.target.closest('a[href^="#"]');
  if (link && link.getAttribute("href") === location.hash) openTarget();
});
openTarget();

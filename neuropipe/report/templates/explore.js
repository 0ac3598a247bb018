"use strict";
// Explore: the button of a figure puts Plotly's drawing of the same data in place of the static one, and back.
const colour = (css) => {
  const probe = document.createElement("span");
  probe.className = css;
  document.body.append(probe);
  const found = getComputedStyle(probe).getPropertyValue("--c").trim();
  probe.remove();
  return found;
};
const axis = (title, extra) => {
  const style = getComputedStyle(document.documentElement);
  const [soft, grid] = ["--soft", "--grid"].map((name) => style.getPropertyValue(name).trim());
  return { title: { text: title, font: { size: 12 } }, color: soft, gridcolor: grid, linecolor: soft, zerolinecolor: grid, automargin: true, ...extra };
};
const drawPlot = (plot) => {
  const { x, y, log, traces } = plot.data;
  const style = getComputedStyle(document.documentElement);
  const own = traces.map(({ css, text, ...trace }) => ({
    ...trace,
    type: "scatter",
    line: { color: colour(css), width: 2 },
    marker: { color: colour(css), size: 6 },
    ...(text ? { text, hovertemplate: "%{text}<extra>%{fullData.name}</extra>" } : {}),
  }));
  const isCloud = traces.every((trace) => trace.mode === "markers");
  const layout = {
    height: plot.height,
    margin: { l: 56, r: 12, t: 8, b: 44 },
    paper_bgcolor: "transparent",
    plot_bgcolor: "transparent",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: style.getPropertyValue("--soft").trim() },
    hoverlabel: { bgcolor: style.getPropertyValue("--card").trim(), font: { color: style.getPropertyValue("--ink").trim() } },
    hovermode: isCloud ? "closest" : "x unified",
    legend: { orientation: "h", y: -0.22 },
    dragmode: "zoom",
    xaxis: axis(x, log ? { type: "log" } : {}),
    yaxis: axis(y),
  };
  const options = { displayModeBar: false, responsive: true, showTips: false };
  plot.drawn = plot.drawn.then(() => Plotly.react(plot.element, own, layout, options)); // one drawing at a time
};
const openPlots = new Map();
for (const button of document.querySelectorAll("button.explore")) {
  const figure = button.closest("figure");
  const still = figure.querySelector(".static");
  button.hidden = false;
  button.addEventListener("click", () => {
    const isOpen = openPlots.has(button);
    button.setAttribute("aria-pressed", String(!isOpen));
    if (isOpen) {
      const { element, drawn } = openPlots.get(button);
      drawn.then(() => Plotly.purge(element));
      element.remove();
      openPlots.delete(button);
      still.hidden = false;
      return;
    }
    const element = document.createElement("div");
    element.className = "plot";
    element.setAttribute("role", "img");
    element.setAttribute("aria-label", still.querySelector("svg[role=img]").getAttribute("aria-label"));
    const height = Math.max(still.getBoundingClientRect().height, 320);
    still.hidden = true;
    still.before(element);
    const plot = { element, height, drawn: Promise.resolve(), data: JSON.parse(figure.querySelector("script").textContent) };
    openPlots.set(button, plot);
    drawPlot(plot);
  });
}
document.addEventListener("themechange", () => openPlots.forEach(drawPlot));

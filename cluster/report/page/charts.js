// Draws the charts when they come into view, and writes tables when they are opened. Text reaches the page as text only.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;
const drawn = new Map();
const own = new Map();  // a client's figure -> its chart

// Names of colours become the theme's; `data` holds clients' names, which stay as they are.
function themed(option) {
  if (typeof option === "string") {
    const name = /^var\((--[\w-]+)\)$/.exec(option);
    return name ? getComputedStyle(root).getPropertyValue(name[1]).trim() : option;
  }
  if (Array.isArray(option)) return option.map(themed);
  if (option === null || typeof option !== "object") return option;
  return Object.fromEntries(Object.entries(option).map(([key, value]) => [key, key === "data" ? value : themed(value)]));
}

function rowsOf(table, columns, where) {
  const source = data.tables[table], names = Object.keys(columns);
  const tests = Object.entries(where).map(([name, values]) => [source[name] || [], new Set(values)]);
  const found = [];
  for (let i = 0; i < source[names[0]].length; i++) {
    if (tests.every(([column, values]) => values.has(column[i]))) found.push(names.map((name) => source[name]?.[i] ?? null));
  }
  return found;
}

// A number on an axis of categories would be taken for a place among them, so it becomes one of their names.
function drawnSeries(part, axis) {
  const rows = rowsOf(part.table, part.columns, part.where).filter((row) => row[1] !== null);
  if (axis.type === "category") rows.forEach((row) => { row[0] = String(row[0]); });
  const names = Object.keys(part.columns);
  const own = {
    ...themed(part.style), data: rows, dimensions: Object.values(part.columns), progressive: 0, large: rows.length > 2000,
    encode: { x: 0, y: 1, value: 2 },
  };
  if (!part.band) return [own];
  const [low, high] = part.band.map((name) => names.indexOf(name));
  const edge = { type: "line", stack: own.name, stackStrategy: "all", symbol: "none", silent: true, lineStyle: { opacity: 0 },
    tooltip: { show: false } };
  const whole = rows.filter((row) => row[low] !== null && row[high] !== null);
  const area = { color: own.color, opacity: 0.18 };
  return [
    { ...own, z: 3 },
    { ...edge, name: own.name, color: own.color, data: whole.map((row) => [row[0], row[low]]) },
    { ...edge, name: own.name, color: own.color, data: whole.map((row) => [row[0], row[high] - row[low]]), areaStyle: area },
  ];
}

function pointed(point) {
  const lines = point.dimensionNames.map((name, i) => [name, point.value[i]]).filter(([, value]) => value !== null && value !== "");
  return lines.map(([name, value]) => `${name}: ${value}`.slice(0, 300).replace(/(.{60}\S*)\s/g, "$1\n")).join("\n");
}

function draw(figure) {
  const spec = own.get(figure) ?? data.charts.find((chart) => chart.name === figure.id), plot = figure.querySelector(".plot");
  drawn.get(figure)?.dispose();
  const renderer = root.classList.contains("printed") ? "svg" : "canvas";  // printers lose all but one of a map's canvases
  const chart = echarts.init(plot, null, { renderer }), ink = themed("var(--ink)"), line = themed("var(--line)");
  const narrow = plot.clientWidth < 600, option = themed(spec.option), maps = Boolean(option.visualMap);
  const axis = (own) => ({
    axisLine: { show: true, lineStyle: { color: line } }, splitLine: { lineStyle: { color: line } }, ...own,
    nameTextStyle: { color: ink },
    axisLabel: { color: ink, hideOverlap: true, overflow: "truncate", width: own.type === "category" && own.inverse ? (narrow ? 70 : 130) : 60 },
  });
  chart.on("finished", () => { figure.dataset.drawn = "true"; });
  chart.setOption({
    animation: false, backgroundColor: "transparent", textStyle: { color: ink, fontFamily: getComputedStyle(document.body).fontFamily },
    aria: { enabled: true, label: { description: `${spec.title}: ${spec.text}` }, decal: { show: spec.series.some((part) => part.style.stack) } },
    legend: { show: !maps, type: "scroll", itemWidth: 18, itemHeight: 10, top: 0, left: 0, textStyle: { color: ink }, pageTextStyle: { color: ink }, inactiveColor: line },
    tooltip: { trigger: "item", renderMode: "richText", confine: true, formatter: pointed },
    ...option,
    grid: { left: maps ? (narrow ? 80 : 140) : 60, right: 16, top: 40, bottom: 44, ...option.grid },
    visualMap: option.visualMap?.map((map) => ({ ...map, textStyle: { color: ink } })),
    xAxis: axis(option.xAxis), yAxis: axis({ nameLocation: "middle", nameGap: 42, nameRotate: 90, ...option.yAxis }),
    series: spec.series.flatMap((part) => drawnSeries(part, option.xAxis)).map((own) => fitted(own, plot, option)),
  });
  chart.getZr().flush();  // at once, since a printer does not wait for the next frame
  drawn.set(figure, chart);
}

// Letters and lines in a map only where they fit.
function fitted(own, plot, option) {
  if (own.type !== "heatmap") return own;
  const width = plot.clientWidth / option.xAxis.data.length;
  const style = { ...own.itemStyle, borderWidth: width > 8 ? 1 : 0 };
  return { ...own, itemStyle: style, label: { ...own.label, show: Boolean(own.label) && width > 22 } };
}

function tableOf(columns, rows) {
  const box = document.createElement("div"), table = document.createElement("table");
  box.className = "wide";
  const head = table.createTHead().insertRow();
  for (const name of Object.values(columns)) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.textContent = name;
    head.append(cell);
  }
  const body = table.createTBody();
  for (const row of rows) {
    const line = body.insertRow();
    for (const value of row) {
      const cell = line.insertCell();
      cell.textContent = value ?? "";
      if (typeof value === "string") cell.className = value.length > 40 ? "text long" : "text";
    }
  }
  box.append(table);
  return box;
}

function once(details, fill) {
  details.addEventListener("toggle", () => details.append(...fill()), { once: true });
}

function chartTables(name) {
  const columns = new Map();
  for (const part of data.charts.find((chart) => chart.name === name).series) {
    columns.set(part.table, { ...columns.get(part.table), ...part.columns });
  }
  return [...columns].map(([table, own]) => tableOf(own, rowsOf(table, own, {})));
}

// The charts of one client, which are made when a person opens it.
function clientFigures(client) {
  const ofClient = (part) => part.table === "clients" ? { ...part, where: { ...part.where, client_id: [client] } } : part;
  const isKnown = (part) => part.table === "clients" && drawnSeries(ofClient(part), {})[0].data.length > 0;
  return data.client_charts.filter((chart) => chart.series.some(isKnown)).map((chart) => {
    const figure = document.createElement("figure"), caption = document.createElement("figcaption"), plot = document.createElement("div");
    figure.className = "chart";
    caption.textContent = chart.title;
    plot.className = "plot";
    plot.style.height = `${chart.height}px`;
    plot.setAttribute("role", "img");
    figure.append(caption, plot);
    own.set(figure, { ...chart, title: `${chart.title} of ${client}`, series: chart.series.map(ofClient) });
    watcher.observe(figure);
    return figure;
  });
}

const figures = [...document.querySelectorAll("figure.chart")];
// One at a time, so that the page answers in between.
const waiting = new Set();
function drawNext() {
  const [figure] = waiting;
  if (figure === undefined) return;
  if (!drawn.has(figure)) draw(figure);
  waiting.delete(figure);
  setTimeout(drawNext);
}
const watcher = new IntersectionObserver((entries) => {
  const found = entries.filter((entry) => entry.isIntersecting && !drawn.has(entry.target));
  const isIdle = waiting.size === 0;
  found.forEach((entry) => waiting.add(entry.target));
  if (isIdle) setTimeout(drawNext);
}, { rootMargin: "400px" });
for (const figure of figures) {
  watcher.observe(figure);
  once(figure.querySelector("details.data"), () => chartTables(figure.id));
}
for (const details of document.querySelectorAll("details.client")) {
  const client = details.dataset.client, rows = () => rowsOf("clients", data.client, { client_id: [client] });
  once(details, () => [tableOf(data.client, rows()), ...clientFigures(client)]);
}
const redraw = () => drawn.forEach((_, figure) => draw(figure));
addEventListener("resize", () => drawn.forEach((chart) => chart.resize()));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
addEventListener("beforeprint", () => { root.classList.add("printed"); [...figures, ...own.keys()].forEach(draw); });
addEventListener("afterprint", () => { root.classList.remove("printed"); redraw(); });

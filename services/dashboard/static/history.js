// The past: average and counts over time, what drives them, downloads.

import { ask, byId, count, element, moment, percent, row, score, zone } from "./dom.js";
import { filters, offerTopics, query, STEPS } from "./filters.js";

const charts = {};
let asked = 0;

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const faint = (name) => `color-mix(in srgb, ${colour(name)} 22%, transparent)`;

function name(start, step) {
  const at = new Date(start);
  if (step === "day") return at.toLocaleDateString(undefined, { day: "numeric", month: "short" });
  if (step === "minute") return at.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit" });
  return at.toLocaleString(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
}

// Promotions as vertical lines.
const marks = {
  id: "marks",
  afterDatasetsDraw(chart) {
    const { ctx, chartArea, scales: { x } } = chart;
    ctx.save();
    ctx.strokeStyle = colour("ink");
    for (const mark of chart.options.plugins.marks.at ?? []) {
      const place = x.getPixelForValue(mark.index);
      ctx.setLineDash(mark.served ? [] : [4, 3]);
      ctx.beginPath();
      ctx.moveTo(place, chartArea.top);
      ctx.lineTo(place, chartArea.bottom);
      ctx.stroke();
    }
    ctx.restore();
  },
};

function options(extra, at) {
  const grid = { color: colour("line") };
  const ticks = { color: colour("soft"), maxRotation: 0, autoSkipPadding: 16 };
  return {
    animation: false, responsive: true, maintainAspectRatio: false, normalized: true,
    interaction: { mode: "index", intersect: false },
    plugins: {
      legend: { display: false },
      marks: { at },
      tooltip: { callbacks: { afterBody: (items) => at.filter((mark) => mark.index === items[0]?.dataIndex).map((mark) => mark.text) } },
    },
    scales: {
      x: { grid: { display: false }, ticks, ...extra.x },
      y: { grid, ticks: { ...ticks, maxTicksLimit: 5 }, ...extra.y },
    },
  };
}

function draw(id, type, data, chosen) {
  charts[id]?.destroy();
  charts[id] = new Chart(byId(id), { type, data, options: chosen, plugins: [marks] });
}

function drawPoints(points, step, promotions) {
  const labels = points.map((point) => name(point.start, step));
  const at = promotions.filter((p) => ["serving", "refused", "rolled back"].includes(p.state)).map((p) => ({
    index: points.findLastIndex((point) => point.start <= p.at),
    served: p.state === "serving",
    text: `${p.alias}: version ${p.version} ${p.state}`,
  })).filter((mark) => mark.index >= 0);
  const line = { borderColor: colour("ink"), borderWidth: 2, pointRadius: points.length < 40 ? 2 : 0, tension: 0, spanGaps: true };
  const edge = { borderWidth: 0, pointRadius: 0, tension: 0, spanGaps: true };
  const band = (sign) => points.map((p) => (p.average_score === null ? null : p.average_score + sign * 2 * p.standard_error));
  draw("averages", "line", { labels, datasets: [
    { ...edge, label: "at most", data: band(1), fill: "+1", backgroundColor: faint("positive") },
    { ...edge, label: "at least", data: band(-1) },
    { ...line, label: "average score", data: points.map((p) => p.average_score) },
  ] }, options({}, at));
  draw("counts", "bar", { labels, datasets: ["negative", "neutral", "positive"].map((label) => ({
    label, data: points.map((p) => p[label]), backgroundColor: colour(label), categoryPercentage: 1, barPercentage: 0.9,
  })) }, options({ x: { stacked: true }, y: { stacked: true, beginAtZero: true } }, at));
  byId("points").replaceChildren(...points.toReversed().map((p) => row([
    moment(p.start), count(p.posts), count(p.positive), count(p.neutral), count(p.negative), score(p.average_score),
    p.standard_error === null ? "–" : (2 * p.standard_error).toFixed(3),
  ])));
}

function drivers(list, found) {
  const most = Math.max(...found.map((d) => Math.abs(d.effect)), 1e-9);
  byId(list).replaceChildren(...(found.length ? found.map((driver) => {
    const line = element("li");
    const bar = element("meter");
    bar.max = most;
    bar.value = Math.abs(driver.effect);
    bar.title = `moves the average by ${driver.effect.toFixed(4)}`;
    line.append(element("span", driver.word, "word"), bar, element("small", `${count(driver.posts)} posts, weight ${score(driver.weight)}`));
    return line;
  }) : [element("li", "nothing stands out", "empty")]));
}

async function refreshDrivers(chosen, number) {
  const parameters = query({ ...chosen, label: "", language: "", text: "" });
  try {
    const found = await ask(`/api/drivers?${parameters}`);
    if (number !== asked) return;
    byId("drivers-note").textContent = found.posts
      ? `in ${count(found.posts)} posts, by how far they move the average; weight: what model version ${found.model_version ?? "–"} says of the word alone` : "";
    drivers("drivers-positive", found.positive);
    drivers("drivers-negative", found.negative);
  } catch (problem) {
    if (number === asked) byId("drivers-note").textContent = problem.message;
  }
}

function links(chosen, step) {
  const parameters = query(chosen);
  for (const link of document.querySelectorAll("[data-export]")) {
    link.href = `/api/export?${new URLSearchParams([["what", "posts"], ["format", link.dataset.export], ...parameters])}`;
  }
  const figures = query({ ...chosen, label: "", language: "", text: "" });
  byId("export-series").href = `/api/export?${new URLSearchParams([["what", `${step}s`], ["format", "csv"], ...figures])}`;
}

export async function refresh() {
  const number = ++asked;
  const chosen = filters();
  const step = STEPS[chosen.range];
  links(chosen, step);
  byId("over-time").setAttribute("aria-busy", "true");
  const parameters = query({ ...chosen, label: "", language: "", text: "" });
  const since = new URLSearchParams({ since: chosen.since.toISOString() });
  try {
    const [points, promotions, topics] = await Promise.all([
      ask(`/api/series?${new URLSearchParams([...parameters, ["step", step], ["zone", zone]])}`),
      ask(`/api/promotions?${since}`),
      ask(`/api/topics?${since}`),
    ]);
    if (number !== asked) return;
    offerTopics(topics.map((topic) => topic.topic));
    const posts = points.reduce((sum, p) => sum + p.posts, 0);
    const negative = points.reduce((sum, p) => sum + p.negative, 0);
    byId("over-time-note").textContent = posts
      ? `${chosen.topic || "all topics"}: ${count(posts)} posts, ${percent(negative / posts)} negative` : chosen.topic || "all topics";
    byId("no-points").hidden = points.length > 0;
    for (const box of document.querySelectorAll(".chart")) box.hidden = points.length === 0;
    drawPoints(points, step, promotions);
  } catch (problem) {
    if (number === asked) byId("over-time-note").textContent = problem.message;
  } finally {
    if (number === asked) byId("over-time").setAttribute("aria-busy", "false");
  }
  await refreshDrivers(chosen, number);
}

export async function refreshNow() {
  try {
    const topic = byId("topic").value;
    const { now, yesterday } = await ask(`/api/now${topic ? `?${new URLSearchParams({ topic })}` : ""}`);
    byId("now").textContent = score(now.average_score);
    byId("yesterday").textContent = yesterday.average_score === null
      ? `${count(now.posts)} posts; none yesterday at this time`
      : `${count(now.posts)} posts; yesterday ${score(yesterday.average_score)} in ${count(yesterday.posts)}`;
  } catch { /* The stream says what is wrong. */ }
}

let before = null;
export async function refreshPipeline() {
  try {
    const found = await ask("/api/pipeline");
    const seconds = before ? (Date.parse(found.as_of) - Date.parse(before.as_of)) / 1000 : 0;
    const rate = seconds > 0 ? (found.stored - before.stored) / seconds : null;
    before = found;
    const second = (s) => (s === null ? "–" : s < 120 ? `${s.toFixed(2)} s` : "old posts");
    byId("pipeline").replaceChildren(
      row(["stored a second", rate === null ? "–" : rate.toFixed(1)]),
      row(["waiting in Kafka", found.lag === null ? "–" : count(found.lag)]),
      row(["creation to row, p50", second(found.latency_p50_seconds)]),
      row(["creation to row, p99", second(found.latency_p99_seconds)]),
      row(["newest stored", found.newest_at ? clockOrDay(found.newest_at) : "–"]),
      row(["stored, repeated, set aside", [found.stored, found.duplicates, found.dead_lettered].map(count).join(", ")]),
    );
  } catch { /* The stream says what is wrong. */ }
}

const clockOrDay = (at) => (Date.now() - Date.parse(at) < 86_400_000 ? new Date(at).toLocaleTimeString() : moment(at));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", refresh);

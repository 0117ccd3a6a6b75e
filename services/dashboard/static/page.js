// The page: what changes every second, and who starts the rest.

import "/static/lib/chart.umd.js";
import { refresh as refreshAlerts } from "./alerts.js";
import { byId, clock, count, element, LABELS, milliseconds, percent, row, score } from "./dom.js";
import { learn, role } from "./editing.js";
import { fromAddress, toAddress } from "./filters.js";
import { refresh, refreshNow, refreshPipeline } from "./history.js";
import { current, drawNewest, show } from "./posts.js";
import "./trying.js";

function svgElement(name, attributes, title) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (title !== undefined) {
    const said = svgElement("title", {});
    said.textContent = title;
    node.append(said);
  }
  return node;
}

const bar = (x, y, width, height, label, title) =>
  svgElement("rect", { x, y, width, height, class: `bar ${label}` }, title);

function mood(counts) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "mood");
  svg.setAttribute("viewBox", "0 0 100 10");
  svg.setAttribute("preserveAspectRatio", "none");
  const scored = LABELS.reduce((sum, label) => sum + counts[label], 0) || 1;
  let x = 0;
  for (const label of LABELS) {
    const width = (100 * counts[label]) / scored;
    svg.append(bar(x, 0, width, 10, label));
    x += width;
  }
  return svg;
}

const SAYINGS = {
  serving: (p) => `${p.alias}: version ${p.version} serves since ${clock(p.at)}`,
  "rolling out": (p) => `${p.alias}: version ${p.version} rolls out since ${clock(p.at)}`,
  refused: (p) => `${p.alias}: version ${p.version} refused at ${clock(p.at)}: ${p.reason}`,
  "rolled back": (p) => `${p.alias}: version ${p.version} rolled back at ${clock(p.at)}: ${p.reason}`,
  replaced: (p) => `${p.alias}: version ${p.version} replaced at ${clock(p.at)}`,
};
const DRAWN = ["serving", "refused", "rolled back"];
const saying = (p) => (SAYINGS[p.state] ? SAYINGS[p.state](p) : `${p.alias}: version ${p.version} ${p.state}`);

function drawMinutes(minutes, promotions) {
  const svg = byId("minutes");
  svg.setAttribute("viewBox", "0 0 60 100");
  svg.setAttribute("preserveAspectRatio", "none");
  const highest = Math.max(1, ...minutes.map((m) => m.posts - m.unscored));
  svg.replaceChildren();
  minutes.forEach((minute, i) => {
    let y = 100;
    for (const label of LABELS) {
      const height = (96 * minute[label]) / highest;
      y -= height;
      const title = `${clock(minute.start)}: ${minute[label]} ${label}`;
      svg.append(bar(60 - minutes.length + i + 0.08, y, 0.84, height, label, title));
    }
  });
  for (const promotion of promotions.filter((p) => DRAWN.includes(p.state))) {
    const at = Date.parse(promotion.at);
    const i = minutes.findLastIndex((minute) => Date.parse(minute.start) <= at);
    if (i < 0) continue;
    const x = 60 - minutes.length + i + Math.min(1, (at - Date.parse(minutes[i].start)) / 60_000);
    svg.append(svgElement("line", {
      x1: x, x2: x, y1: 0, y2: 100, class: `event ${promotion.state === "serving" ? "serving" : "failed"}`,
    }, saying(promotion)));
  }
}

function drawModels({ champion, challenger, comparison }, promotions) {
  const roles = [champion, challenger].filter((role) => role);
  byId("models").hidden = roles.length === 0;
  const parts = roles.map((role) => (role.state === "serving"
    ? `${role.alias} ${role.version}` : `${role.alias} ${role.version} (${role.state})`));
  const agreed = comparison
    ? `: agrees on ${percent(comparison.agreement)} of ${count(comparison.posts)} posts` : "";
  byId("models-summary").textContent = parts.join(" | ") + agreed;
  byId("comparison").hidden = !comparison;
  if (comparison) {
    byId("comparison").tBodies[0].replaceChildren(...["champion", "challenger"].map((role) => {
      const side = comparison[role];
      return row([role, side.version, percent(side.positive), percent(side.neutral), percent(side.negative),
        mood(side), score(side.average_score), milliseconds(side.p50_seconds), milliseconds(side.p99_seconds)]);
    }));
  }
  byId("promotions").replaceChildren(...promotions.slice(-4).reverse().map((p) => element("li", saying(p))));
}

function draw(snapshot) {
  const day = snapshot.days.at(-1);
  if (day) {
    const scored = day.posts - day.unscored || 1;
    byId("average").textContent = score(day.average_score);
    byId("posts").textContent = count(day.posts);
    byId("unscored").textContent = day.unscored ? `${count(day.unscored)} not scored` : "";
    for (const label of LABELS) {
      byId(label).textContent = count(day[label]);
      byId(`${label}-share`).textContent = `${((100 * day[label]) / scored).toFixed(1)} %`;
    }
  }
  drawMinutes(snapshot.minutes, snapshot.promotions);
  drawModels(snapshot.models, snapshot.promotions);
  byId("topics").replaceChildren(...snapshot.topics.map((t) =>
    row([t.topic, count(t.posts), score(t.average_score), mood(t)])));
  byId("days").replaceChildren(...snapshot.days.slice().reverse().map((d) =>
    row([d.start.slice(0, 10), count(d.positive), count(d.neutral), count(d.negative), score(d.average_score)])));
  const reasons = Object.entries(snapshot.dead_letters);
  byId("dead-letters").replaceChildren(...(reasons.length
    ? reasons.map(([reason, records]) => row([reason, count(records)]))
    : [row(["none"])]));
  drawNewest(snapshot.newest);
  state(snapshot.problem ? `The database is away; showing ${clock(snapshot.taken_at)}.`
    : day ? `live · ${clock(snapshot.taken_at)}` : "live · waiting for the first post",
  Boolean(snapshot.problem));
}

function state(text, problem) {
  byId("state").textContent = text;
  byId("state").classList.toggle("problem", problem);
  document.body.classList.toggle("stale", problem);
}


function start() {
  const live = new EventSource("/api/live");
  live.addEventListener("snapshot", (event) => draw(JSON.parse(event.data)));
  live.addEventListener("problem", (event) => state(JSON.parse(event.data).problem, true));
  live.addEventListener("error", () => state("The dashboard server is away; trying again …", true));
  const everything = () => Promise.all([refresh(), refreshNow(), refreshPipeline(), refreshAlerts()]);
  const changed = () => {
    if (current() !== "live") show(current());
    toAddress(current());
    refresh();
    refreshNow();
  };
  let typing;
  byId("filters").addEventListener("input", (event) => {
    if (current() === "live" && ["label", "language", "text"].includes(event.target.id)) show("newest");
    clearTimeout(typing);
    typing = setTimeout(changed, event.target.tagName === "INPUT" ? 400 : 0);
  });
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("reset", () => setTimeout(() => { show("live"); changed(); }));
  for (const button of document.querySelectorAll("[data-order]")) {
    button.addEventListener("click", () => { show(button.dataset.order); toAddress(current()); });
  }
  everything();
  setInterval(() => { if (!document.hidden) { refreshNow(); refreshPipeline(); refreshAlerts(); } }, 5_000);
  setInterval(() => { if (!document.hidden) refresh(); }, 30_000);
}

const order = fromAddress();
learn().then(() => {
  if (role === null) {
    state("This dashboard needs a token: open its address with ?token=TOKEN at the end.", true);
    return;
  }
  show(["newest", "telling"].includes(order) ? order : "live");
  start();
}).catch((problem) => {
  state(`${problem.message}; trying again …`, true);
  setTimeout(() => location.reload(), 5_000);
});

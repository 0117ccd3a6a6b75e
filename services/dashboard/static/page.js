// Draws each snapshot. Posts, names and reasons are hostile text: they only ever reach the page
// through textContent.
"use strict";

const LABELS = ["negative", "neutral", "positive"];
const MARKS = { negative: "▼", neutral: "●", positive: "▲" };
const byId = (id) => document.getElementById(id);
const count = (n) => n.toLocaleString();
const score = (s) => (s === null ? "–" : (s >= 0 ? "+" : "−") + Math.abs(s).toFixed(2));

function element(name, text, className) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
}

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

function row(cells) {
  const line = element("tr");
  for (const cell of cells) {
    const box = element("td");
    box.append(cell);
    line.append(box);
  }
  return line;
}

const clock = (moment) => new Date(moment).toLocaleTimeString();
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const milliseconds = (seconds) => (seconds === null ? "–" : `${(1000 * seconds).toFixed(1)} ms`);

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

// Corrections. The name is asked for once and kept by the browser; a token lasts as long as the tab.

let access = "closed";

function whoCorrects() {
  const name = localStorage.getItem("moodstream.name");
  const token = sessionStorage.getItem("moodstream.token");
  return name && (access !== "token" || token) ? { name, token } : null;
}

function askWho() {
  const dialog = byId("who");
  byId("name").value = localStorage.getItem("moodstream.name") ?? "";
  byId("token-label").hidden = access !== "token";
  byId("token").required = access === "token";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      const name = byId("name").value.trim();
      if (dialog.returnValue !== "ok" || !name) return resolve(null);
      localStorage.setItem("moodstream.name", name);
      if (byId("token").value) sessionStorage.setItem("moodstream.token", byId("token").value);
      byId("token").value = "";
      showName();
      resolve(whoCorrects());
    }, { once: true });
  });
}

function showName() {
  byId("rename").hidden = access === "closed" || !localStorage.getItem("moodstream.name");
}

async function correct(post, label, note) {
  const who = whoCorrects() ?? await askWho();
  if (!who) return;
  const headers = { "Content-Type": "application/json" };
  if (who.token) headers.Authorization = `Bearer ${who.token}`;
  let said;
  try {
    const answer = await fetch("/api/corrections", {
      method: "POST", headers, body: JSON.stringify({ source: post.source, id: post.id, label, by: who.name }),
    });
    if (answer.ok) {
      note.textContent = corrected(label, who.name);
      said = `${note.textContent}.`;
    } else {
      if (answer.status === 401) sessionStorage.removeItem("moodstream.token");
      said = `Not corrected: ${(await answer.json()).problem}.`;
    }
  } catch {
    said = "Not corrected: the dashboard server is away.";
  }
  byId("correcting").textContent = said;
}

const corrected = (label, by) => `corrected to ${label} by ${by}`;

function correction(post) {
  const box = element("details", undefined, "correction");
  const summary = element("summary", "correct");
  const choices = element("span");
  choices.setAttribute("role", "group");
  choices.setAttribute("aria-label", "The right label of this post");
  const note = element("span", post.corrected_label ? corrected(post.corrected_label, post.corrected_by) : "", "corrected");
  for (const label of LABELS) {
    const button = element("button", `${MARKS[label]} ${label}`, label);
    button.type = "button";
    button.addEventListener("click", () => correct(post, label, note));
    choices.append(button);
  }
  box.append(summary, choices);
  return access === "closed" ? [note] : [box, note];
}

function drawNewest(posts) {
  // A post that moves away under the hand that corrects it would be the wrong one.
  const held = byId("newest").matches(":hover, :focus-within") || byId("who").open;
  byId("held").hidden = !held;
  if (held) return;
  byId("newest").replaceChildren(...posts.map((post) => {
    const item = element("li");
    const mark = element("span", MARKS[post.label] ?? "○", `mark ${post.label ?? ""}`);
    mark.setAttribute("role", "img");
    mark.setAttribute("aria-label", post.label ?? "not scored");
    const body = element("div");
    body.append(element("p", post.text));
    const note = [clock(post.created_at), score(post.score), ...post.topics];
    body.append(element("time", note.join(" · ")), ...correction(post));
    item.append(mark, body);
    return item;
  }));
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

byId("zone").textContent = Intl.DateTimeFormat().resolvedOptions().timeZone;
byId("rename").addEventListener("click", askWho);
fetch("/api/corrections").then((answer) => answer.json()).then((answer) => {
  access = answer.access;
  showName();
}).catch(() => { /* Without an answer nothing can be corrected; the stream says what is wrong. */ });
const live = new EventSource("/api/live");
live.addEventListener("snapshot", (event) => draw(JSON.parse(event.data)));
live.addEventListener("problem", (event) => state(JSON.parse(event.data).problem, true));
live.addEventListener("error", () => state("The dashboard server is away; trying again …", true));

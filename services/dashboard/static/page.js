// Draws each snapshot. Posts are hostile text: they only ever reach the page through textContent.
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

function bar(x, y, width, height, label) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  for (const [key, value] of Object.entries({ x, y, width, height, class: `bar ${label}` })) {
    node.setAttribute(key, value);
  }
  return node;
}

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

function drawMinutes(minutes) {
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
      const drawn = bar(60 - minutes.length + i + 0.08, y, 0.84, height, label);
      const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
      title.textContent = `${new Date(minute.start).toLocaleTimeString()}: ${minute[label]} ${label}`;
      drawn.append(title);
      svg.append(drawn);
    }
  });
}

function drawNewest(posts) {
  byId("newest").replaceChildren(...posts.map((post) => {
    const item = element("li");
    const mark = element("span", MARKS[post.label] ?? "○", `mark ${post.label ?? ""}`);
    mark.setAttribute("role", "img");
    mark.setAttribute("aria-label", post.label ?? "not scored");
    const body = element("div");
    body.append(element("p", post.text));
    const note = [new Date(post.created_at).toLocaleTimeString(), score(post.score), ...post.topics];
    body.append(element("time", note.join(" · ")));
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
  drawMinutes(snapshot.minutes);
  byId("topics").replaceChildren(...snapshot.topics.map((t) =>
    row([t.topic, count(t.posts), score(t.average_score), mood(t)])));
  byId("days").replaceChildren(...snapshot.days.slice().reverse().map((d) =>
    row([d.start.slice(0, 10), count(d.positive), count(d.neutral), count(d.negative), score(d.average_score)])));
  const reasons = Object.entries(snapshot.dead_letters);
  byId("dead-letters").replaceChildren(...(reasons.length
    ? reasons.map(([reason, records]) => row([reason, count(records)]))
    : [row(["none"])]));
  drawNewest(snapshot.newest);
  state(snapshot.problem ? `The database is away; showing ${new Date(snapshot.taken_at).toLocaleTimeString()}.`
    : day ? `live · ${new Date(snapshot.taken_at).toLocaleTimeString()}` : "live · waiting for the first post",
  Boolean(snapshot.problem));
}

function state(text, problem) {
  byId("state").textContent = text;
  byId("state").classList.toggle("problem", problem);
  document.body.classList.toggle("stale", problem);
}

byId("zone").textContent = Intl.DateTimeFormat().resolvedOptions().timeZone;
const live = new EventSource("/api/live");
live.addEventListener("snapshot", (event) => draw(JSON.parse(event.data)));
live.addEventListener("problem", (event) => state(JSON.parse(event.data).problem, true));
live.addEventListener("error", () => state("The dashboard server is away; trying again …", true));

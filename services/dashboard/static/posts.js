// Posts, live or found, and the correction of their labels.

import { ask, byId, clock, count, element, LABELS, MARKS, moment, score } from "./dom.js";
import { change, writing } from "./editing.js";
import { filters, query } from "./filters.js";

let order = "live";
let cursor = null;
let asked = 0;

const corrected = (label, by) => `corrected to ${label} by ${by}`;

async function correct(post, label, note) {
  try {
    const done = await change("/api/corrections", "POST", (by) => ({ source: post.source, id: post.id, label, by }));
    if (!done) return;
    note.textContent = corrected(label, done.said.by);
    byId("correcting").textContent = `${note.textContent}.`;
  } catch (problem) {
    byId("correcting").textContent = `Not corrected: ${problem.message}.`;
  }
}

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
  return writing === "closed" ? [note] : [box, note];
}

function item(post) {
  const line = element("li");
  const mark = element("span", MARKS[post.label] ?? "○", `mark ${post.label ?? ""}`);
  mark.setAttribute("role", "img");
  mark.setAttribute("aria-label", post.label ?? "not scored");
  const body = element("div");
  body.append(element("p", post.text));
  const when = order === "live" ? clock(post.created_at) : moment(post.created_at);
  body.append(element("time", [when, score(post.score), ...post.topics].join(" · ")), ...correction(post));
  line.append(mark, body);
  return line;
}

export function drawNewest(posts) {
  if (order !== "live") return;
  // A post that moves away under the hand that corrects it would be the wrong one.
  const held = byId("newest").matches(":hover, :focus-within") || byId("who").open;
  byId("held").hidden = !held;
  if (!held) byId("newest").replaceChildren(...posts.map(item));
}

async function search(more) {
  const number = ++asked;
  byId("found").textContent = "searching …";
  const parameters = query(filters());
  parameters.set("order", order);
  if (more && cursor) parameters.set("cursor", cursor);
  let page;
  try {
    page = await ask(`/api/posts?${parameters}`);
  } catch (problem) {
    if (number === asked) byId("found").textContent = problem.message;
    return;
  }
  if (number !== asked) return;
  if (more) byId("newest").append(...page.posts.map(item));
  else byId("newest").replaceChildren(...page.posts.map(item));
  cursor = page.next;
  byId("more").hidden = !cursor;
  const shown = byId("newest").childElementCount;
  byId("found").textContent = shown || cursor
    ? `${count(shown)} found${page.searched_back_to ? `, back to ${moment(page.searched_back_to)}` : ""}`
    : "no post is like that";
}

export function show(which) {
  order = which;
  for (const button of document.querySelectorAll("[data-order]")) {
    button.setAttribute("aria-pressed", String(button.dataset.order === which));
  }
  byId("held").hidden = true;
  byId("more").hidden = true;
  byId("found").textContent = "";
  asked += 1;
  if (which !== "live") search(false);
}

export const current = () => order;
byId("more").addEventListener("click", () => search(true));

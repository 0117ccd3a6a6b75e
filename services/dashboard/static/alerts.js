// Alerts, the rules that raise them, and what was sent.

import { ask, byId, element, moment, row } from "./dom.js";
import { change, writing } from "./editing.js";

const drawn = new Map();
const say = (text) => { byId("ruled").textContent = text; };

function ruleOf() {
  const kind = byId("rule-kind").value;
  const threshold = byId("rule-threshold").valueAsNumber;
  const rule = {
    name: byId("rule-name").value.trim(), kind, topic: byId("rule-topic").value,
    window_minutes: byId("rule-window").valueAsNumber,
    channels: [...document.querySelectorAll("#rule-channels input:checked")].map((box) => box.value),
  };
  // "Below the usual by 0.3" is a change of -0.3.
  if (kind !== "model") rule.threshold = kind === "change" ? -Math.abs(threshold) : threshold;
  if (kind === "keyword") rule.keyword = byId("rule-keyword").value;
  return rule;
}

async function attempt(what, action) {
  try {
    const done = await action();
    if (done !== null) say(what(done));
    await refresh();
  } catch (problem) {
    say(`Not done: ${problem.message}.`);
  }
}

function button(text, action) {
  const made = element("button", text);
  made.type = "button";
  made.addEventListener("click", action);
  return made;
}

function ruleLine(rule) {
  const line = element("li");
  const about = [rule.kind.replace("_", " "), rule.topic === "*" ? "all topics" : rule.topic, rule.keyword, rule.threshold]
    .filter((part) => part !== null && part !== undefined).join(" · ");
  line.append(element("strong", rule.name), element("span", ` ${about}${rule.channels.length ? ` → ${rule.channels.join(", ")}` : ""}${rule.enabled ? "" : " (off)"} `));
  if (writing !== "closed") {
    const address = `/api/rules/${encodeURIComponent(rule.name)}`;
    line.append(
      button("test", () => attempt(
        (done) => (done.said.channels.length ? `A test goes to ${done.said.channels.join(", ")}.` : "This rule tells nobody: it has no channel."),
        () => change(`${address}/test`, "POST", {}))),
      " ", button("remove", () => attempt(() => `${rule.name} is removed.`, () => change(address, "DELETE"))),
    );
  }
  return line;
}

function alertLine(alert) {
  const line = element("li", undefined, alert.closed_at ? "" : "open");
  const when = alert.closed_at ? `${moment(alert.opened_at)} to ${moment(alert.closed_at)}` : `since ${moment(alert.opened_at)}`;
  line.append(element("strong", alert.rule), ` ${alert.summary} `, element("small", when));
  return line;
}

function deliveryLine(delivery) {
  const last = delivery.attempts.at(-1);
  const cells = [moment(delivery.created_at), delivery.channel, delivery.title ?? delivery.kind,
    `${delivery.state} after ${delivery.tries} ${delivery.tries === 1 ? "try" : "tries"}${last?.problem ? `: ${last.problem}` : ""}`];
  if (writing !== "closed") {
    cells.push(button("send again", () => attempt(() => "It is sent again.", () => change(`/api/deliveries/${delivery.id}/replay`, "POST", {}))));
  }
  return row(cells);
}

export async function refresh() {
  let found;
  try {
    found = await Promise.all([ask("/api/alerts"), ask("/api/rules"), ask("/api/channels"), ask("/api/deliveries?limit=20")]);
  } catch { return; /* The stream says what is wrong. */ }
  const [alerts, rules, channels, deliveries] = found;
  redraw("alert-list", alerts.slice(0, 10), (shown) => (shown.length ? shown.map(alertLine) : [element("li", "nothing to report", "empty")]));
  redraw("rule-list", rules, () => (rules.length ? rules.map(ruleLine) : [element("li", "no rules yet", "empty")]));
  redraw("deliveries", deliveries, () => deliveries.map(deliveryLine));
  byId("rule-editor").hidden = byId("rules-text").hidden = writing === "closed";
  redraw("rule-channels", channels, () => [element("legend", "Tell"), ...channelBoxes(channels)]);
}

// What is the same stays: a box that somebody is about to tick, a button that has the focus.
function redraw(id, data, draw) {
  const state = JSON.stringify([writing, data]);
  if (drawn.get(id) === state) return;
  drawn.set(id, state);
  byId(id).replaceChildren(...draw(data));
}

function channelBoxes(channels) {
  if (!channels.length) return [element("small", "nobody: the notifier has no channels yet")];
  const chosen = new Set(ruleOf().channels);
  return channels.map((channel) => {
    const label = element("label");
    const box = element("input");
    box.type = "checkbox";
    box.value = channel.name;
    box.checked = chosen.has(channel.name);
    label.append(box, ` ${channel.name}${channel.refused ? " (wants no more)" : ""}`);
    return label;
  });
}

byId("rule-kind").addEventListener("change", () => {
  const kind = byId("rule-kind").value;
  byId("rule-keyword-label").hidden = kind !== "keyword";
  byId("rule-keyword").required = kind === "keyword";
  byId("rule-threshold-label").hidden = kind === "model";
  byId("rule-threshold").required = kind !== "model";
});
byId("rule-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const rule = ruleOf();
  attempt(() => `${rule.name} is saved.`, () => change(`/api/rules/${encodeURIComponent(rule.name)}`, "PUT", rule));
});
byId("preview").addEventListener("click", async () => {
  try {
    const episodes = await ask("/api/rules/preview", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(ruleOf()),
    });
    say(episodes.length ? `It would have told ${episodes.length} times: ${episodes.slice(-5).map((e) => moment(e.opened_at)).join("; ")}.`
      : "It would have told nothing in the last 7 days.");
  } catch (problem) {
    say(`Not tried: ${problem.message}.`);
  }
});
byId("rules-text").addEventListener("toggle", async () => {
  if (byId("rules-text").open) byId("yaml").value = await ask("/api/rules.yaml").catch((problem) => `# ${problem.message}`);
});
byId("save-yaml").addEventListener("click", () => attempt(
  (done) => `${done.said.rules} rules are saved.`, () => change("/api/rules.yaml", "PUT", byId("yaml").value, "application/yaml")));

// What is shown: the form, the address of the page, and the parameters of the API, in one place.

import { byId, element, zone } from "./dom.js";

const NAMES = ["topic", "range", "label", "language", "text"];
const HOURS = { "2h": 2, "24h": 24, "7d": 168, "30d": 720, "365d": 8760 };
export const STEPS = { "2h": "minute", "24h": "hour", "7d": "hour", "30d": "day", "365d": "day" };

export function filters() {
  const found = Object.fromEntries(NAMES.map((name) => [name, byId(name).value.trim()]));
  found.since = new Date(Date.now() - HOURS[found.range] * 3_600_000);
  found.since.setSeconds(0, 0);
  return found;
}

// Parameters of the API.
export function query({ topic, label, language, text, since }) {
  const found = new URLSearchParams({ since: since.toISOString() });
  for (const [name, value] of Object.entries({ topic, label, language, text })) if (value) found.set(name, value);
  return found;
}

export function toAddress(order) {
  const found = new URLSearchParams();
  for (const name of NAMES) {
    const value = byId(name).value.trim();
    if (value && !(name === "range" && value === "7d")) found.set(name, value);
  }
  if (order !== "live") found.set("order", order);
  const text = found.toString();
  history.replaceState(null, "", `${location.pathname}${text ? `?${text}` : ""}${location.hash}`);
}

export function fromAddress() {
  const given = new URLSearchParams(location.search);
  for (const name of NAMES) {
    const value = given.get(name);
    if (value === null) continue;
    if (name === "topic") offerTopics([value]);
    byId(name).value = value;
    if (!byId(name).value && name === "range") byId(name).value = "7d";
  }
  return given.get("order") ?? "live";
}

export function offerTopics(names) {
  for (const select of [byId("topic"), byId("rule-topic")]) {
    const known = new Set([...select.options].map((option) => option.value));
    for (const name of names) {
      if (known.has(name)) continue;
      const option = element("option", name);
      option.value = name;
      select.append(option);
    }
  }
}

for (const place of document.querySelectorAll(".zone")) place.textContent = zone;

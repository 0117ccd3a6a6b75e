// A sentence, scored, with the words that made the score.

import { ask, byId, element, MARKS, percent, score } from "./dom.js";

function weighed(text, words) {
  const most = Math.max(...words.map((word) => Math.abs(word.weight)), 0.05);
  const line = element("span", undefined, "sentence");
  let at = 0;
  for (const word of words) {
    line.append(text.slice(at, word.start));
    const strength = Math.min(4, Math.ceil((4 * Math.abs(word.weight)) / most - 0.5));
    const mark = element("mark", text.slice(word.start, word.end), strength > 0 ? `${word.weight > 0 ? "up" : "down"} s${strength}` : "");
    mark.title = score(word.weight);
    line.append(mark);
    at = word.end;
  }
  line.append(text.slice(at));
  return line;
}

byId("try-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = byId("sentence").value;
  const place = byId("tried");
  place.textContent = "…";
  try {
    const said = await ask("/api/try", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ text }),
    });
    place.replaceChildren(
      element("strong", `${MARKS[said.label]} ${said.label} ${score(said.score)}`, said.label),
      element("small", ` ${percent(said.p_positive)} positive, ${percent(said.p_neutral)} neutral, ${percent(said.p_negative)} negative; model version ${said.model_version} `),
      element("br"), weighed(text, said.words),
    );
  } catch (problem) {
    place.textContent = `Not scored: ${problem.message}.`;
  }
});

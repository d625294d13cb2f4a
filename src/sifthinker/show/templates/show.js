"use strict";
// Text of the dataset is untrusted: it is always set as text, never as HTML.
const sif = (() => {
  const PAGE = 50, KEPT_PARTS = 20;
  const PALETTE = ["#e4572e", "#1b7fbd", "#2e9e5b", "#9b51b8", "#c98a00", "#00929b"];
  const FIELDS = { code: 0, dataset: 1, family: 2, steps: 3 };
  const at = (id) => document.getElementById(id);
  const parts = new Map(), awaited = new Map();
  let rows = [], perPart = 1, found = [], page = 0, current = -1, entry = null, step = 0;

  function element(tag, properties = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  }

  function stepsOf(count) {
    return `${count} step${count === 1 ? "" : "s"}`;
  }

  function index(content) {
    rows = content.rows;
    perPart = content.perPart;
    const searched = rows.map((row) => row[4].toLowerCase());
    for (const [name, field] of Object.entries(FIELDS)) {
      const counts = new Map();
      for (const row of rows) counts.set(row[field], (counts.get(row[field]) || 0) + 1);
      const values = [...counts.keys()].sort((a, b) => (typeof a === "number" ? a - b : a < b ? -1 : 1));
      const all = { code: "All entries", dataset: "All datasets", family: "All families", steps: "All step counts" }[name];
      at(name).append(element("option", { value: "*", textContent: all }));
      for (const value of values) {
        const label = { code: value || "accepted", dataset: value || "(rejects)", family: value || "(no family)", steps: stepsOf(value) }[name];
        at(name).append(element("option", { value: String(value), textContent: `${label} (${counts.get(value).toLocaleString("en")})` }));
      }
      at(name).onchange = () => filter(searched);
    }
    at("search").oninput = () => filter(searched);
    at("before").onclick = () => turn(page - 1);
    at("after").onclick = () => turn(page + 1);
    filter(searched);
    const wanted = Number.parseInt(location.hash.slice(1), 10);
    if (wanted >= 0 && wanted < rows.length) open(wanted);
  }

  function filter(searched) {
    const words = at("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = Object.entries(FIELDS).map(([name, field]) => [field, at(name).value]).filter(([, value]) => value !== "*");
    found = [];
    for (let i = 0; i < rows.length; i++) {
      if (chosen.every(([field, value]) => String(rows[i][field]) === value) && words.every((word) => searched[i].includes(word))) found.push(i);
    }
    at("count").textContent = `${found.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")}`;
    turn(0);
  }

  function turn(to) {
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    page = Math.min(Math.max(0, to), pages - 1);
    at("page").textContent = `${page + 1} of ${pages}`;
    at("before").disabled = page === 0;
    at("after").disabled = page === pages - 1;
    at("list").replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map((number) => {
      const [code, dataset, family, count, question] = rows[number];
      const about = code ? element("small", { className: "code", textContent: code })
        : element("small", { textContent: [dataset, family, stepsOf(count)].filter(Boolean).join(" · ") });
      const button = element("button", { onclick: () => open(number) }, question, about);
      button.dataset.number = number;
      return element("li", {}, button);
    }));
    mark();
  }

  function mark() {
    for (const button of at("list").querySelectorAll("button")) {
      const here = Number(button.dataset.number) === current;
      button.setAttribute("aria-current", String(here));
      if (here) button.scrollIntoView({ block: "nearest" });
    }
  }

  function part(number, entries) {
    parts.set(number, entries);
    if (parts.size > KEPT_PARTS) parts.delete(parts.keys().next().value);
    for (const ready of awaited.get(number) || []) ready(entries);
    awaited.delete(number);
  }

  function load(number) {
    if (parts.has(number)) return Promise.resolve(parts.get(number));
    return new Promise((ready, fail) => {
      if (awaited.has(number)) return awaited.get(number).push(ready);
      awaited.set(number, [ready]);
      const script = element("script", { src: `part-${number}.js` });
      script.onload = () => script.remove();
      script.onerror = () => { awaited.delete(number); fail(new Error(`Cannot read part-${number}.js. Check that the complete folder was copied.`)); };
      document.head.append(script);
    });
  }

  async function open(number) {
    current = number;
    history.replaceState(null, "", `#${number}`);
    mark();
    try {
      const entries = await load(Math.floor(number / perPart));
      if (current !== number) return; // another entry was chosen meanwhile
      entry = entries[number % perPart];
      step = 0;
      draw();
    } catch (error) {
      at("entry").replaceChildren(element("p", { className: "code", textContent: error.message }));
    }
  }

  function draw() {
    const shown = [element("h2", { textContent: entry.question })];
    if (entry.code) {
      shown.push(element("p", { className: "code", textContent: `${entry.code}: ${entry.reason}` }));
      entry.attempts.forEach((attempt, index) => shown.push(
        element("h3", { textContent: `Attempt ${index + 1}` }),
        element("pre", { textContent: attempt.reply || "(no reply)" }),
        element("ul", {}, ...attempt.problems.map((problem) => element("li", { textContent: problem })))));
    } else {
      const answer = element("p", {}, element("span", { className: "answer", textContent: entry.answer }));
      if (entry.choices.length) answer.append(element("span", { className: "soft", textContent: `  (choices: ${entry.choices.join(", ")})` }));
      shown.push(answer, element("div", { className: "steps", id: "buttons" }), element("div", { className: "words", id: "words" }),
        element("div", { className: "pictures", id: "pictures" }, ...entry.images.map(frame)),
        element("details", {}, element("summary", { textContent: "Raw chain" }), element("pre", { textContent: entry.chain })));
    }
    const facts = Object.entries({ id: entry.id, ...entry.facts });
    shown.push(element("details", {}, element("summary", { textContent: "Origin" }),
      element("table", {}, ...facts.map(([name, value]) => element("tr", {}, element("td", { textContent: name }), element("td", { textContent: value }))))));
    at("entry").replaceChildren(...shown);
    if (!entry.code) show(0);
  }

  function frame(source, index) {
    const image = element("img", { src: source, alt: index ? "depth (dark is near)" : "image" });
    const made = element("div", { className: "frame" }, image);
    image.onload = () => made.classList.toggle("small", image.naturalWidth <= 256);
    image.onerror = () => made.append(element("p", { className: "code", textContent: `Cannot show ${source}. Check that the dataset and this folder are still in the same relative place.` }));
    return made;
  }

  function rectangle(box, colour, label) {
    const [x1, y1, x2, y2] = box.map((value) => value * 100);
    const made = element("div", { className: colour ? "box" : "box target" });
    Object.assign(made.style, { left: `${x1}%`, top: `${y1}%`, width: `${x2 - x1}%`, height: `${y2 - y1}%` });
    if (colour) made.style.borderColor = colour;
    if (label) {
      const tag = element("b", { textContent: label });
      tag.style.background = colour;
      made.append(tag);
    }
    return made;
  }

  function show(to) {
    step = Math.min(Math.max(0, to), Math.max(0, entry.steps.length - 1));
    const buttons = entry.steps.map((_, index) => {
      const button = element("button", { textContent: `Step ${index + 1}`, onclick: () => show(index) });
      button.setAttribute("aria-pressed", String(index === step));
      return button;
    });
    at("buttons").replaceChildren(...buttons, element("span", { className: "soft", textContent: " dashed lines: target boxes" }));
    const { words, regions } = entry.steps[step] || { words: "(no readable step)", regions: [] };
    at("words").textContent = words;
    for (const [layer, picture] of [...at("pictures").children].entries()) {
      for (const old of picture.querySelectorAll(".box")) old.remove();
      picture.append(...entry.targets.map((box) => rectangle(box)),
        ...regions.map((region, index) => rectangle(region.box, PALETTE[index % PALETTE.length], region.depth === null ? "" : layer ? String(region.depth) : "")));
    }
  }

  document.addEventListener("keydown", (event) => {
    if (/^(INPUT|SELECT)$/.test(event.target.tagName) || event.altKey || event.ctrlKey || event.metaKey) return;
    const place = found.indexOf(current);
    if (event.key === "ArrowRight" && entry && !entry.code) show(step + 1);
    else if (event.key === "ArrowLeft" && entry && !entry.code) show(step - 1);
    else if (event.key === "ArrowDown" && place + 1 < found.length) go(place + 1);
    else if (event.key === "ArrowUp" && place > 0) go(place - 1);
    else return;
    event.preventDefault();
  });

  function go(place) {
    const wanted = Math.floor(place / PAGE);
    if (wanted !== page) turn(wanted);
    open(found[place]);
  }

  return { index, part };
})();

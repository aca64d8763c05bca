"use strict";
// Views that the reader leafs through draw by draw. The data of a view are JSON in the page; its
// arrays of draws are thousandths, 16 bits each, little-endian, in base64. Nothing is computed here.

const element = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in made && name !== "list") made[name] = value; else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
};

const thousandths = (encoded) => {
  const bytes = Uint8Array.from(atob(encoded), (character) => character.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Array.from({ length: bytes.length / 2 }, (_, k) => view.getUint16(2 * k, true));
};

const share = (value) => (value / 1000).toFixed(3);

const numbers = (of, k, prob) => {
  const rHat = of.r_hat && of.r_hat[k] ? `, R-hat ${of.r_hat[k].toFixed(3)}` : "";
  return `mean ${share(of.mean[k])}, ${prob} % interval ${share(of.lower[k])} to ${share(of.upper[k])}${rHat}`;
};

// Controls common to all views: a slider, a button that plays, and what else the view wants.
const player = (view, data, label, choices, show) => {
  const n = data.draws.length;
  const slider = element("input", { type: "range", min: 1, max: n, value: 1 });
  const button = element("button", { type: "button", textContent: "Play" });
  const which = element("span", { className: "which" });
  const state = {};
  const render = () => {
    const k = Number(slider.value) - 1;
    const words = `draw ${k + 1} of ${n}: ${data.draws[k]}`;
    which.textContent = words;
    slider.setAttribute("aria-valuetext", words);
    show(k, state);
  };
  let timer = null;
  const stop = () => { clearInterval(timer); timer = null; button.textContent = "Play"; };
  const start = () => {
    button.textContent = "Pause";
    const pause = matchMedia("(prefers-reduced-motion: reduce)").matches ? 2000 : 400;
    timer = setInterval(() => { slider.value = (Number(slider.value) % n) + 1; render(); }, pause);
  };
  button.addEventListener("click", () => (timer === null ? start() : stop()));
  slider.addEventListener("input", () => { stop(); render(); });
  const controls = element("div", { className: "controls", role: "group", "aria-label": label },
    button, element("label", {}, "Draw ", slider), which);
  for (const [name, options] of Object.entries(choices)) {
    if (options.length < 2) continue;
    const select = element("select", { "aria-label": name }, ...options.map((text, k) => element("option", { value: k, textContent: text })));
    state[name] = 0;
    select.addEventListener("change", () => { state[name] = Number(select.value); render(); });
    controls.append(element("label", {}, `${name} `, select));
  }
  view.append(controls);
  return render;
};

// One stop of the tab key for a grid; arrow keys move among its cells.
const rove = (rows, tell) => {
  const at = (r, c) => rows[r] && rows[r][c];
  rows.forEach((row, r) => row.forEach((cell, c) => {
    cell.tabIndex = r === 0 && c === 0 ? 0 : -1;
    cell.addEventListener("focus", () => tell(cell));
    cell.addEventListener("mouseenter", () => tell(cell));
    cell.addEventListener("click", () => cell.focus());
    cell.addEventListener("keydown", (event) => {
      const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
      if (!step) return;
      event.preventDefault();
      const next = at(r + step[0], c + step[1]) || (step[0] && rows[r + step[0]] && rows[r + step[0]].at(-1));
      if (!next) return;
      rows.flat().forEach((each) => { each.tabIndex = -1; });
      next.tabIndex = 0;
      next.focus();
    });
  }));
};

let ids = 0;
const detailOf = (view, text) => {
  ids += 1;
  const detail = element("p", { className: "detail soft", id: `detail-${ids}`, textContent: text });
  view.append(detail);
  return detail;
};

const square = (box, value) => {
  const side = `${100 * Math.sqrt(value / 1000)}%`;
  box.style.width = side;
  box.style.height = side;
};

const sources = (data) => ["posterior", "prior"].filter((name) => data[name]);
const both = (data) => (data.prior ? ["posterior and prior", "posterior", "prior"] : ["posterior"]);
const chosen = (state) => [["posterior", "prior"], ["posterior"], ["prior"]][state.Show || 0];

// Maps of attention weights: one for each head, posterior beside prior.
const attention = (view, data, label) => {
  const nHead = data.heads.length;
  const nCell = (data.contexts[0].length * (data.contexts[0].length + 1)) / 2;
  const at = (draw, context, head) => ((draw * data.contexts.length + context) * nHead + head) * nCell;
  const values = Object.fromEntries(sources(data).map((name) => [name, thousandths(data[name].draws)]));
  const panels = element("div", { className: "panels" });
  let maps = [], shown = "";
  const draw = (k, state) => {
    const key = `${state.Context || 0} ${state.Head || 0} ${state.Show || 0}`;
    if (key !== shown) { build(state); shown = key; }
    for (const map of maps) {
      const from = at(k, map.context, map.head);
      map.cells.forEach(({ cell, weight, word }, c) => {
        const value = values[map.name][from + c];
        square(weight, value);
        word.textContent = share(value);
        cell.dataset.value = value;
      });
    }
  };
  const build = (state) => {
    const context = state.Context || 0, text = data.contexts[context];
    const heads = state.Head ? [state.Head - 1] : data.heads.map((_, h) => h);
    maps = [];
    panels.replaceChildren();
    for (const h of heads) {
      panels.append(element("div", { className: "pair" }, ...chosen(state).map((name) => mapOf(name, context, h, text))));
    }
  };
  const mapOf = (name, context, head, text) => {
    const title = `${data.heads[head]}, ${name}`;
    const table = element("table", { className: `map of-${name}${text.length > 12 ? " many" : ""}`, role: "grid", "aria-label": title });
    table.append(element("thead", {}, element("tr", {}, element("td", {}), ...text.map((c) => element("th", { scope: "col", textContent: c })))));
    const body = element("tbody"), cells = [], rows = [], of = data[name];
    const from = at(0, context, head);
    text.forEach((character, q) => {
      const row = element("tr", {}, element("th", { scope: "row", textContent: character }));
      rows.push([]);
      text.forEach((other, key) => {
        if (key > q) { row.append(element("td", { className: "future" })); return; }
        const c = from + cells.length;
        const weight = element("i", { className: "weight" }), word = element("span", { className: "hidden" });
        const ends = [of.lower[c], of.upper[c]].map((value) => { const end = element("i", { className: "end" }); square(end, value); return end; });
        const cell = element("td", { role: "gridcell", "aria-describedby": detail.id }, weight, ...ends, word);
        cell.words = () => `${title}: position ${q + 1} “${character}” attends to position ${key + 1} “${other}”: ` +
          `${share(cell.dataset.value)} in this draw; ${numbers(of, c, data.prob)}.`;
        rows[q].push(cell);
        cells.push({ cell, weight, word });
        row.append(cell);
      });
      body.append(row);
    });
    table.append(body);
    rove(rows, (cell) => { detail.textContent = cell.words(); });
    maps.push({ name, context, head, cells });
    return element("div", { className: "panel" }, element("p", { className: "name", textContent: title }), table);
  };
  const contexts = data.contexts.map((text) => `“${text.join("")}”`);
  const render = player(view, data, label,
    { Context: contexts, Head: nHead > 1 ? ["all", ...data.heads] : [], Show: both(data) }, draw);
  view.append(panels);
  const detail = detailOf(view, "Point at a cell, or move to it with the arrow keys, to read its numbers.");
  render();
};

// Bars of the probabilities of the next character.
const next = (view, data, label) => {
  const panels = element("div", { className: "panels" });
  const values = Object.fromEntries(sources(data).map((name) => [name, thousandths(data[name].draws)]));
  const nToken = data.contexts[0].tokens.length, nContext = data.contexts.length;
  let tables = [], shown = null;
  const draw = (k, state) => {
    if (shown !== (state.Show || 0)) { build(state); shown = state.Show || 0; }
    for (const table of tables) {
      const from = (k * nContext + table.context) * nToken;
      table.rows.forEach(({ cell, bar, number }, t) => {
        const value = values[table.name][from + t];
        bar.style.width = `${value / 10}%`;
        number.textContent = share(value);
        cell.dataset.value = value;
      });
    }
  };
  const build = (state) => {
    tables = [];
    panels.replaceChildren();
    data.contexts.forEach((context, i) => {
      panels.append(element("div", { className: "pair" }, ...chosen(state).map((name) => tableOf(name, context, i))));
    });
  };
  const tableOf = (name, context, i) => {
    const title = `after “${context.text}”, ${name}`, of = data[name];
    const table = element("table", { className: `bars of-${name}`, role: "grid", "aria-label": title });
    const body = element("tbody"), rows = [];
    context.tokens.forEach((token, t) => {
      const c = i * nToken + t;
      const bar = element("i", { className: "bar" }), interval = element("i", { className: "interval" }), mean = element("i", { className: "mean" });
      interval.style.left = `${of.lower[c] / 10}%`;
      interval.style.width = `${(of.upper[c] - of.lower[c]) / 10}%`;
      mean.style.left = `${of.mean[c] / 10}%`;
      const cell = element("td", { role: "gridcell", "aria-describedby": detail.id }, bar, interval, mean);
      const number = element("td", { className: "number" });
      cell.append(element("span", { className: "hidden", textContent: token }));
      cell.words = () => `${title}: “${token}” has probability ${share(cell.dataset.value)} in this draw; ${numbers(of, c, data.prob)}.`;
      rows.push({ cell, bar, number });
      body.append(element("tr", {}, element("th", { scope: "row", textContent: token }), cell, number));
    });
    const scale = element("td", { className: "scale" }, ...["0", "probability", "1"].map((word) => element("span", { textContent: word })));
    table.append(body, element("tfoot", { "aria-hidden": "true" }, element("tr", {}, element("td", { className: "number" }), scale, element("td", { className: "number" }))));
    rove(rows.map(({ cell }) => [cell]), (cell) => { detail.textContent = cell.words(); });
    tables.push({ name, context: i, rows });
    return element("div", { className: "panel" }, element("p", { className: "name", textContent: title }), table);
  };
  const render = player(view, data, label, { Show: both(data) }, draw);
  view.append(panels);
  const detail = detailOf(view, "Point at a bar, or move to it with the arrow keys, to read its numbers.");
  render();
};

// A text that each draw generates.
const text = (view, data, label) => {
  const n = data.texts[0].length;
  const own = thousandths(data.own), [mean, lower, upper] = [data.mean, data.lower, data.upper].map(thousandths);
  const box = element("div", { className: "text", role: "group", "aria-label": label });
  const draw = (k) => {
    const spans = data.texts[k].map((character, t) => {
      const c = k * n + t;
      const span = element("span", { className: `c q${data.levels.findIndex((limit) => own[c] < limit)}`, textContent: character });
      span.words = () => `“${character.trim() || "␣"}”: probability ${share(own[c])} in this draw; over the ${data.texts.length} draws mean ` +
        `${share(mean[c])}, ${data.prob} % interval ${share(lower[c])} to ${share(upper[c])}.`;
      span.addEventListener("mouseenter", () => { detail.textContent = span.words(); });
      return span;
    });
    box.replaceChildren(element("span", { className: "prompt", textContent: data.prompt }), ...spans);
  };
  const render = player(view, data, label, {}, draw);
  view.append(box);
  const detail = detailOf(view, "Point at a character, or move to it with the arrow keys, to read its numbers.");
  detail.setAttribute("aria-live", "polite");
  walk(box, (span) => { detail.textContent = span.words(); });
  render();
};

// Arrow keys move along the characters of a text.
const walk = (box, tell) => {
  box.tabIndex = 0;
  box.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10 }[event.key];
    if (!step && event.key !== "Escape") return;
    event.preventDefault();
    const all = [...box.querySelectorAll(".c")], before = all.findIndex((each) => each.classList.contains("at"));
    all.forEach((each) => each.classList.remove("at"));
    if (!step) return;
    const span = all[Math.min(all.length - 1, Math.max(0, before + (before < 0 ? 1 : step)))];
    span.classList.add("at");
    tell(span);
  });
};

const views = { attention, next, text };
for (const block of document.querySelectorAll(".draws")) {
  const data = JSON.parse(block.querySelector("script").textContent);
  views[block.dataset.view](block.querySelector(".view"), data, block.dataset.label);
  block.classList.add("live");
}
for (const box of document.querySelectorAll(".text")) if (box.tabIndex < 0) walk(box, () => {});
for (const box of document.querySelectorAll(".wide, figure")) {  // only what scrolls is a stop of the tab key
  if (box.scrollWidth <= box.clientWidth) continue;
  box.tabIndex = 0;
  if (box.tagName !== "FIGURE") box.setAttribute("role", "group");  // a figure with a caption has its role
  box.setAttribute("aria-label", box.querySelector("caption, figcaption").textContent.split(". ")[0]);
}

// On paper nothing can be opened: what is folded is unfolded there.
const folded = [];
addEventListener("beforeprint", () => {
  folded.push(...document.querySelectorAll("details:not([open])"));
  for (const details of folded) details.open = true;
});
addEventListener("afterprint", () => { while (folded.length) folded.pop().open = false; });

// The section that is read is marked in the navigation.
const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    for (const link of links.values()) link.removeAttribute("aria-current");
    links.get(target.id).setAttribute("aria-current", "true");
  }
}, { rootMargin: "-20% 0px -70% 0px" });
for (const id of links.keys()) seen.observe(document.getElementById(id));

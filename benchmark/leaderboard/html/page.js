"use strict";
// Content from records reaches the page as text, never as markup.

const MOST = 300; // rows that are shown at first
const MARKS = { labels: "●", logits: "■", features: "▲", gradients: "◆", relations: "▼", combined: "+", other: "×" };

const read = (id) => JSON.parse(document.getElementById(id).textContent);

function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties))
    if (key in element) element[key] = value;
    else element.setAttribute(key, value);
  element.append(...children);
  return element;
}

// -- cells -----------------------------------------------------------------------------------------------------------

const grouped = (value) => value.toLocaleString("en-US");
const isText = (column) => !column.number;

function source(value) {
  const kind = value.includes("+") ? "combined" : value in MARKS ? value : "other";
  const mark = make("span", { className: "source", "data-mark": MARKS[kind] }, value);
  mark.style.setProperty("--tint", `var(--${kind})`);
  return mark;
}

function cell(column, value, name = "td") {
  if (isText(column)) return make(name, {}, column.name === "source" ? source(value) : value);
  const [lead, ...aside] = value[1].replace("-", "−").split(/ (?=[±(])/); // the text after the number, such as an interval
  return column.aside ? make(name, { className: "number paired" }, lead, make("span", { className: "aside" }, ...aside))
    : make(name, { className: "number" }, lead);
}

// -- a table that sorts and filters ----------------------------------------------------------------------------------

function board(data) {
  const state = { column: -1, down: true, text: "", chosen: {}, all: false, open: new Set() };
  const head = make("tr");
  const table = make("table", {}, make("caption", { hidden: true }, data.title), make("thead", {}, head));
  const count = make("output", { "aria-live": "polite" });
  const more = make("button", { type: "button", className: "more", hidden: true });
  more.addEventListener("click", () => { state.all = true; draw(); });

  data.columns.forEach((column, place) => {
    const button = make("button", { type: "button", title: column.about || "" }, column.name);
    const th = make("th", { scope: "col", className: isText(column) ? "" : "number", "aria-sort": "none" }, button);
    button.addEventListener("click", () => {
      const best = !isText(column); // numbers start with the largest
      if (state.column !== place) [state.column, state.down] = [place, best];
      else if (state.down === best) state.down = !best;
      else state.column = -1; // the third click restores the order
      draw();
    });
    head.append(th);
  });

  const controls = make("div", { className: "controls" });
  const search = make("input", { type: "search", placeholder: "method, source, pair …" });
  search.addEventListener("input", () => { state.text = search.value.toLowerCase(); draw(); });
  controls.append(make("label", {}, "Search", search));
  const choose = (name, values, keep) => {
    if (values.length < 2) return;
    const select = make("select", {}, make("option", { value: "" }, "all"), ...values.map((value) => make("option", { value }, value)));
    select.addEventListener("change", () => { state.chosen[name] = select.value === "" ? null : keep(select.value); draw(); });
    controls.append(make("label", {}, name, select));
  };
  const distinct = (values) => [...new Set(values)];
  data.heads.forEach((name, place) =>
    choose(name, distinct(data.groups.map((group) => group.names[place])), (value) => (row, group) => group.names[place] === value));
  const source = data.columns.findIndex((column) => column.name === "source");
  if (source >= 0)
    choose("Source", distinct(data.groups.flatMap((group) => group.rows.map((row) => row.cells[source]))), (value) => (row) => row.cells[source] === value);
  controls.append(count);

  const words = (row, group) => [...group.names, ...row.cells.filter((value, place) => isText(data.columns[place]))].join(" ").toLowerCase();
  const kept = (row, group) =>
    words(row, group).includes(state.text) && Object.values(state.chosen).every((keep) => keep === null || keep(row, group));

  function sorted(rows) {
    if (state.column < 0) return rows;
    const key = (row) => (isText(data.columns[state.column]) ? row.cells[state.column] : row.cells[state.column][0]);
    const turn = state.down ? -1 : 1;
    return [...rows].sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x == null || y == null) return (x == null) - (y == null); // missing values come last in either direction
      return turn * (typeof x === "string" ? x.localeCompare(y, "en") : x - y);
    });
  }

  function line(row) {
    const [lead, ...rest] = row.cells;
    if (!row.seeds) return [make("tr", {}, Object.assign(cell(data.columns[0], lead, "th"), { className: "first", scope: "row" }),
      ...rest.map((value, place) => cell(data.columns[place + 1], value)))];
    const open = state.open.has(row);
    const name = make("span", {}, ...lead.split(/(?<=[(,=_])/).flatMap((part) => [part, make("wbr")]));
    const button = make("button", { type: "button", "aria-expanded": String(open) }, name);
    const tr = make("tr", {}, make("th", { scope: "row", className: "first" }, button), ...rest.map((value, place) => cell(data.columns[place + 1], value)));
    const below = () => make("tr", { className: "below" }, make("td", { colSpan: data.columns.length }, seeds(data.seeds, row.seeds)));
    button.addEventListener("click", () => {
      const opened = !state.open.has(row);
      if (opened) { state.open.add(row); tr.after(below()); }
      else { state.open.delete(row); tr.nextSibling.remove(); }
      button.setAttribute("aria-expanded", String(opened));
    });
    return open ? [tr, below()] : [tr];
  }

  function draw() {
    [...head.children].forEach((th, place) =>
      th.setAttribute("aria-sort", place !== state.column ? "none" : state.down ? "descending" : "ascending"));
    table.querySelectorAll(":scope > tbody").forEach((body) => body.remove());
    let found = 0, shown = 0;
    for (const group of data.groups) {
      const rows = sorted(group.rows.filter((row) => kept(row, group)));
      found += rows.length;
      const some = rows.slice(0, state.all ? rows.length : Math.max(0, MOST - shown));
      if (!some.length) continue;
      shown += some.length;
      const body = make("tbody");
      if (group.names.length) {
        const name = make("span", {}, group.names.filter((part) => part).join(" · "));
        body.append(make("tr", {}, make("th", { className: "group", colSpan: data.columns.length, scope: "rowgroup" }, name)));
      }
      body.append(...some.flatMap(line));
      table.append(body);
    }
    if (!found) table.append(make("tbody", {}, make("tr", {}, make("td", { className: "none", colSpan: data.columns.length }, "No rows match."))));
    const total = data.groups.reduce((sum, group) => sum + group.rows.length, 0);
    count.textContent = `${grouped(found)} of ${grouped(total)} rows`;
    more.hidden = shown === found;
    more.textContent = `Show all ${grouped(found)} rows`;
  }

  draw();
  const scroll = make("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": data.title }, table);
  return make("section", {}, make("h2", {}, data.title), controls, scroll, more);
}

// -- from a row to its seeds, and from a seed to its record ----------------------------------------------------------

function seeds(columns, rows) {
  const head = columns.map((column) => make("th", { scope: "col", className: isText(column) ? "" : "number" }, column.name));
  const lines = rows.map(({ id, cells }) => {
    const button = make("button", { type: "button", "aria-label": `record ${id}` }, "record");
    button.addEventListener("click", () => show(id));
    return make("tr", {}, ...cells.map((value, place) => cell(columns[place], value)), make("td", {}, button));
  });
  return make("table", {}, make("thead", {}, make("tr", {}, ...head, make("th"))), make("tbody", {}, ...lines));
}

let records = null; // parsed on first use: they may be large

function show(id) {
  records ??= read("records");
  const dialog = document.getElementById("record"), text = dialog.querySelector("pre");
  document.getElementById("record-name").textContent = id;
  text.textContent = records[id] ?? `This page does not contain its records. To see this one, run\n\n    kdbench show ${id}`;
  dialog.showModal();
  text.scrollTop = 0;
}

// -- light and dark --------------------------------------------------------------------------------------------------

function theme() {
  const button = document.getElementById("theme"), system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const say = () => { button.textContent = isDark() ? "Light" : "Dark"; };
  button.addEventListener("click", () => { document.documentElement.dataset.theme = isDark() ? "light" : "dark"; say(); });
  system.addEventListener("change", say);
  say();
}

theme();
document.getElementById("results").append(...read("tables").map(board));

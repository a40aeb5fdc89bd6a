// Filters over the tables of pruners. Without scripts both tables are shown whole.
"use strict";

(() => {
  const place = document.getElementById("catalogue-filter");
  const tables = [...document.querySelectorAll("table")].filter((t) => t.tHead?.rows[0]?.cells[0]?.textContent === "pruner");
  const words = (row, index) => row.cells[index].textContent.trim();
  const columnsOf = (table) => [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim());
  const about = tables.find((t) => columnsOf(t).includes("reads")), served = tables.find((t) => t !== about);
  if (!place || !about || !served) return;
  const READS = columnsOf(about).indexOf("reads"), IDS = columnsOf(about).length - 1, families = columnsOf(served).slice(1);
  const pruners = new Map([...about.tBodies[0].rows].map((row) => [words(row, 0), {
    said: row.textContent.toLowerCase(),
    reads: /\bllm\b/.test(words(row, READS)) ? "layers" : /clip_text/.test(words(row, READS)) ? "text" : "image",
    ids: words(row, IDS).split(",")[0],
  }]));
  for (const row of served.tBodies[0].rows) {
    const found = pruners.get(words(row, 0));
    if (found) found.families = families.filter((_, i) => words(row, i + 1) === "✓");
  }

  function choice(label, options) {
    const select = Object.assign(document.createElement("select"), { name: label });
    select.append(...options.map(([value, said]) => new Option(said, value)));
    const labelled = document.createElement("label");
    labelled.append(`${label} `, select);
    place.append(labelled);
    return select;
  }
  const ids = [...new Set([...pruners.values()].map((p) => p.ids))].sort();
  const family = choice("family", [["", "any"], ...families.map((f) => [f, f])]);
  const reads = choice("chooses by", [["", "anything"], ["image", "the image alone"], ["text", "image and text"], ["layers", "the LLM's layers"]]);
  const theirs = choice("its authors' ids", [["", "any"], ...ids.map((i) => [i, i])]);
  const search = Object.assign(document.createElement("input"), { type: "search", name: "words" });
  const labelled = document.createElement("label");
  labelled.append("words ", search);
  const count = Object.assign(document.createElement("p"), { className: "count" });
  count.setAttribute("role", "status");
  place.append(labelled, count);

  function apply() {
    const wanted = search.value.trim().toLowerCase();
    const stays = (name) => {
      const p = pruners.get(name);
      return p !== undefined && (!family.value || p.families.includes(family.value)) && (!reads.value || p.reads === reads.value)
        && (!theirs.value || p.ids === theirs.value) && p.said.includes(wanted);
    };
    for (const table of tables) for (const row of table.tBodies[0].rows) row.hidden = !stays(words(row, 0));
    for (const row of served.rows) {
      [...row.cells].forEach((cell, i) => { cell.hidden = i > 0 && family.value !== "" && families[i - 1] !== family.value; });
    }
    count.textContent = `${[...pruners.keys()].filter(stays).length} of ${pruners.size} pruners`;
  }
  place.addEventListener("input", apply);
  place.hidden = false;
  apply();
})();

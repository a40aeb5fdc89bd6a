// One grid of visual tokens, each coloured by the place that its position id names; no dependencies, no server.
//
// positionMap(rows, columns, kept, policy) returns an SVG as a string.
//   rows, columns: of the grid, whole numbers from 1 to 64.
//   kept: the cells that stay, row * columns + column, in any order; or a share, 0 < kept <= 1, of a fixed shuffle, so
//     that a smaller share keeps a part of what a larger one keeps.
//   policy: "unpruned", "preserved", "reassigned", "reassigned-image", "stretched", "shifted:N" or "scaled:FACTOR".
// positionMap.ids(rows, columns, kept, policy) returns the numbers behind it: {kept, ids}, in the order of the grid; an
//   id counts from the image's first, so id i names row floor(i / columns) and column i % columns.
// Both throw a RangeError for what they do not know. Without a text beside the image, reassigned and reassigned-image
// give an image the same ids.
"use strict";

const positionMap = (() => {
  const MOST = 64, CELL = 20, MARGIN = 10;
  // The corners of the grid: told apart by brightness along the rows and by hue along the columns.
  const CORNERS = [[[36, 62, 145], [0, 130, 120]], [[226, 100, 145], [250, 205, 70]]];
  const RULES = {
    unpruned: (i, id) => id,
    preserved: (i, id) => id,
    reassigned: (i) => i,
    "reassigned-image": (i) => i,
    stretched: (i, id, count, total) => Math.floor((2 * i * (total - 1) + count - 1) / (2 * Math.max(1, count - 1)) || 0),
    shifted: (i, id, count, total, by) => id + by,
    scaled: (i, id, count, total, factor) => Math.floor(factor * id + 1e-9),
  };

  const whole = (value, low, high) => Number.isInteger(value) && value >= low && value <= high;

  function refuse(message) {
    throw new RangeError(`positionMap: ${message}`);
  }

  function ruleOf(policy) {
    const [name, argument, ...rest] = String(policy).split(":");
    const takes = name === "shifted" || name === "scaled";
    const number = Number(argument);
    const good = takes ? argument !== undefined && argument.trim() !== "" && rest.length === 0 && Number.isFinite(number)
      : argument === undefined;
    if (!Object.hasOwn(RULES, name) || !good || (name === "shifted" && !Number.isInteger(number))
        || (name === "scaled" && number <= 0)) {
      refuse(`no position policy ${JSON.stringify(String(policy))}`);
    }
    return { name, argument: takes ? number : null };
  }

  // Every cell once, the same order each time.
  function shuffled(total) {
    const order = Array.from({ length: total }, (_, i) => i);
    let state = 7;
    for (let i = total - 1; i > 0; i--) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      const j = Math.floor((state / 4294967296) * (i + 1));
      [order[i], order[j]] = [order[j], order[i]];
    }
    return order;
  }

  function cellsOf(kept, total) {
    if (typeof kept === "number") {
      if (!(kept > 0 && kept <= 1)) refuse(`a share kept is above 0 and at most 1, not ${kept}`);
      const count = Math.max(1, Math.floor(kept * total + 0.5 + 1e-9));
      return shuffled(total).slice(0, count).sort((a, b) => a - b);
    }
    const cells = [...new Set(kept)].sort((a, b) => a - b);
    if (!cells.length || !cells.every((cell) => whole(cell, 0, total - 1))) {
      refuse(`the cells kept are one or more of 0 to ${total - 1}`);
    }
    return cells;
  }

  function ids(rows, columns, kept, policy) {
    if (!whole(rows, 1, MOST) || !whole(columns, 1, MOST)) refuse(`a grid has 1 to ${MOST} rows and columns`);
    const { name, argument } = ruleOf(policy);
    const total = rows * columns;
    const cells = name === "unpruned" ? Array.from({ length: total }, (_, i) => i) : cellsOf(kept, total);
    const unmoved = cells.length === total && argument === null;
    return {
      kept: cells,
      ids: cells.map((id, i) => (unmoved ? id : RULES[name](i, id, cells.length, total, argument))),
    };
  }

  function colour(id, rows, columns) {
    const down = rows > 1 ? Math.floor(id / columns) / (rows - 1) : 0;
    const across = columns > 1 ? (id % columns) / (columns - 1) : 0;
    const mix = (a, b, share) => a + (b - a) * share;
    const channels = [0, 1, 2].map((c) => Math.round(mix(
      mix(CORNERS[0][0][c], CORNERS[0][1][c], across), mix(CORNERS[1][0][c], CORNERS[1][1][c], across), down)));
    return `#${channels.map((c) => c.toString(16).padStart(2, "0")).join("")}`;
  }

  const named = (id, rows, columns) => (id < 0 || id >= rows * columns ? "a place outside of the image"
    : `row ${Math.floor(id / columns) + 1}, column ${(id % columns) + 1}`);

  function captionOf(found, rows, columns) {
    const away = found.kept.map((cell, i) => Math.hypot(
      Math.floor(cell / columns) - Math.floor(found.ids[i] / columns), (cell % columns) - (((found.ids[i] % columns) + columns) % columns)));
    const right = found.kept.filter((cell, i) => cell === found.ids[i]).length;
    const mean = away.reduce((sum, distance) => sum + distance, 0) / away.length;
    return [`${found.kept.length} of ${rows * columns} tokens, ${right} at their place`,
      right === found.kept.length ? "every id names where its token is" : `ids are off by ${mean.toFixed(1)} cells on average`];
  }

  // A token and, shown while it is pointed at, the place that its id names.
  function token(cell, id, rows, columns) {
    const x = (cell % columns) * CELL, y = Math.floor(cell / columns) * CELL;
    const inside = id >= 0 && id < rows * columns;
    const fill = inside ? colour(id, rows, columns) : "#8a8a8a";
    const parts = [`<title>token at ${named(cell, rows, columns)}; id ${id} names ${named(id, rows, columns)}</title>`,
      `<rect x="${x + 0.5}" y="${y + 0.5}" width="${CELL - 1}" height="${CELL - 1}" fill="${fill}"/>`];
    if (id !== cell) {
      parts.push(`<circle cx="${x + CELL / 2}" cy="${y + CELL / 2}" r="2.4" fill="#fff" stroke="#000" stroke-width=".8"/>`);
    }
    if (inside && id !== cell) {
      const toX = (id % columns) * CELL, toY = Math.floor(id / columns) * CELL;
      const line = `M${x + CELL / 2} ${y + CELL / 2}L${toX + CELL / 2} ${toY + CELL / 2}`;
      const square = `M${toX} ${toY}h${CELL}v${CELL}h-${CELL}z`;
      parts.push(`<g class="position-map-link" fill="none" stroke-linejoin="round">`
        + `<path d="${line}${square}" stroke="#fff" stroke-width="5"/><path d="${line}${square}" stroke="#000" stroke-width="2"/></g>`);
    }
    return `<g class="position-map-token" data-cell="${cell}" data-id="${id}">${parts.join("")}</g>`;
  }

  function draw(rows, columns, kept, policy) {
    const found = ids(rows, columns, kept, policy);
    const width = columns * CELL, height = rows * CELL;
    const caption = captionOf(found, rows, columns), stay = new Set(found.kept);
    const dropped = Array.from({ length: rows * columns }, (_, cell) => cell).filter((cell) => !stay.has(cell));
    const least = Math.max(width, 240); // the caption's own width
    const letters = (13 * least) / 240; // the same on the page, whatever the grid
    const left = (least - width) / 2;
    const { name, argument } = ruleOf(policy);
    const label = argument === null ? name : `${name}:${argument}`;
    return `<svg class="position-map" xmlns="http://www.w3.org/2000/svg" role="img" viewBox="${-MARGIN} ${-MARGIN} `
      + `${least + 2 * MARGIN} ${height + 2 * MARGIN + 3 * letters}" aria-label="${label}: ${caption.join("; ")}" `
      + `style="display:block;width:100%;height:auto" font-family="system-ui,sans-serif" font-size="${letters}">`
      + `<style>.position-map-link{visibility:hidden;pointer-events:none}`
      + `.position-map-token:hover>.position-map-link{visibility:visible}</style>`
      + `<g transform="translate(${left} 0)"><g fill="none" stroke="currentColor" stroke-opacity=".3" stroke-width="1">`
      + dropped.map((cell) => `<rect x="${(cell % columns) * CELL + 2.5}" y="${Math.floor(cell / columns) * CELL + 2.5}" `
        + `width="${CELL - 5}" height="${CELL - 5}"/>`).join("")
      + `</g>${found.kept.map((cell, i) => token(cell, found.ids[i], rows, columns)).join("")}</g>`
      + `<g fill="currentColor" text-anchor="middle">${caption.map((line, i) => `<text x="${least / 2}" `
        + `y="${height + letters * (1.6 + 1.4 * i)}">${line}</text>`).join("")}</g></svg>`;
  }

  return Object.assign(draw, { ids });
})();

globalThis.positionMap = positionMap;

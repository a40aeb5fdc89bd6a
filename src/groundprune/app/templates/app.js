// The second tab: every policy's map for what its sliders say. Gradio sets what this returns as the markup of an element.
function drawPositionMaps(keep, rows, columns, further) {
  const policies = ["unpruned", "preserved", "reassigned", "stretched"];
  const extra = String(further ?? "").trim();
  if (extra && !policies.includes(extra)) policies.push(extra);
  const drawn = policies.map((policy) => {
    const name = document.createElement("figcaption");
    name.textContent = policy;
    try {
      const count = (value) => Math.min(32, Math.max(1, Math.round(Number(value)) || 1));
      const share = Math.min(1, Math.max(0.001, Number(keep) || 0.5));
      return `<figure>${name.outerHTML}${positionMap(count(rows), count(columns), share, policy)}</figure>`;
    } catch (error) {
      const said = document.createElement("p");
      said.className = "gp-problem";
      said.setAttribute("role", "alert");
      said.textContent = error.message.replace("positionMap: ", "");
      return `<figure>${name.outerHTML}${said.outerHTML}</figure>`;
    }
  });
  return `<div class="gp-maps">${drawn.join("")}</div>`;
}
globalThis.drawPositionMaps = drawPositionMaps;

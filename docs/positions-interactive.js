// The page "Positions, to try": its controls, and in words what they show. The drawing is positionMap's.
"use strict";

(() => {
  const SAID = {
    preserved: "Each kept token keeps the id that it had, so its id names the place where it lies. The text behind the image goes on from the unpruned length.",
    reassigned: "Kept tokens are numbered anew without gaps, and the text moves up behind them. Each id names a place further up the image, the further the more was dropped before it.",
    "reassigned-image": "The image's ids close up as under reassigned; the text keeps its own. What breaks now is the image's ids alone.",
    stretched: "The ids are spread evenly over the range that the whole image had. Rows are about right, places within them are not.",
    "shifted:6": "Every id moves on by six, those of the text too. All distances between tokens stay, which is why a model hardly notices, although no id names its place.",
    "scaled:0.5": "The ids are squeezed into half of their range: tokens keep their order, and distances are halved.",
  };
  const root = document.getElementById("positions");
  const at = (name) => document.getElementById(`positions-${name}`);
  const place = (id, side) => (id < 0 || id >= side * side ? "a place outside of the image"
    : `row ${Math.floor(id / side) + 1}, column ${(id % side) + 1}`);

  function show() {
    const policy = root.querySelector("input[name=policy]:checked").value;
    const side = Number(at("grid").value), keep = Number(at("keep").value) / 100;
    const found = positionMap.ids(side, side, keep, policy);
    at("token").max = found.kept.length - 1;
    const index = Number(at("token").value), cell = found.kept[index], id = found.ids[index];
    at("share").textContent = keep;
    at("title").textContent = policy;
    at("policy").textContent = SAID[policy];
    at("whole").innerHTML = positionMap(side, side, 1, "unpruned");
    at("map").innerHTML = positionMap(side, side, keep, policy);
    at("map").querySelector(`[data-cell="${cell}"]`).classList.add("shown");
    const token = `token ${index + 1} of ${found.kept.length}, at ${place(cell, side)}`;
    at("token").setAttribute("aria-valuetext", token);
    at("keep").setAttribute("aria-valuetext", `${found.kept.length} of ${side * side} tokens`);
    at("said").textContent = `${found.kept.length} of ${side * side} tokens stay. ${token[0].toUpperCase()}${token.slice(1)}: `
      + (cell === id ? "its id names that place." : `its id ${id} names ${place(id, side)}.`);
  }

  root.addEventListener("input", show);
  root.hidden = false;
  show();
})();

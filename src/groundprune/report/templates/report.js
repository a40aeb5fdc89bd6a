// What is folded is printed, too.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((folded) => (folded.open = true)));

// Without scripts every sample is shown, and the filters stay hidden.
(() => {
  const filters = document.getElementById("filters");
  if (!filters) return;
  const items = [...document.querySelectorAll("#samples > li")];
  const type = document.getElementById("type");
  const count = document.getElementById("count");
  const apply = () => {
    const wrong = filters.querySelector("input[name=wrong]:checked").value;
    let shown = 0;
    for (const item of items) {
      const rightOutcome = !wrong || item.dataset.wrong.split(" ").includes(wrong);
      item.hidden = !(rightOutcome && (!type.value || item.dataset.type === type.value));
      shown += !item.hidden;
    }
    count.textContent = `${shown} of ${items.length} samples shown`;
  };
  filters.addEventListener("change", apply);
  filters.hidden = false;
  apply();
})();

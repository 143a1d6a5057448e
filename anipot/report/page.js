"use strict";
// Options that are folded away belong on paper.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => { d.open = true; }));

(() => {
  const source = document.getElementById("structures");
  if (!source) return;
  const structures = JSON.parse(source.textContent);
  const rows = [...document.querySelectorAll("tr[data-structure]")];
  const panel = document.querySelector(".viewer");
  let viewer = null;

  const show = (row) => {
    const text = structures[row.dataset.structure];
    viewer.removeAllModels();
    viewer.removeAllShapes();
    const model = viewer.addModel(text, "xyz");
    viewer.setStyle({}, { stick: { radius: 0.11 }, sphere: { scale: 0.26 } });
    if (text.includes("Lattice=")) viewer.addUnitCell(model, { box: { color: "gray" } });
    viewer.zoomTo();
    if (model.selectedAtoms({}).length <= 12) viewer.zoom(1.8);  // 3Dmol leaves the small ones small
    viewer.render();
    rows.forEach((r) => {
      r.classList.toggle("chosen", r === row);
      r.querySelector("button").setAttribute("aria-pressed", r === row);
    });
    const cells = row.cells;
    const shown = document.getElementById("shown");
    shown.replaceChildren(...[...cells[1].childNodes].map((n) => n.cloneNode(true)));
    const name = row.querySelector(".name");
    shown.append(` · ${cells[0].textContent}${name ? " · " + name.textContent : ""}`);
  };

  panel.hidden = false;  // it must have a size before the viewer measures it
  try {
    viewer = $3Dmol.createViewer("view", { disableFog: true });
    const ground = () => viewer.setBackgroundColor(getComputedStyle(document.documentElement).getPropertyValue("--view").trim());
    ground();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", ground);
    viewer.setViewStyle({ style: "outline", color: "black", width: 0.04 });
    rows.forEach((row) => {
      row.querySelector("button").disabled = false;
      row.addEventListener("click", () => show(row));
    });
    show(rows[0]);
  } catch (error) {
    panel.hidden = true;
    document.getElementById("no-view").hidden = false;
    console.warn(error);
  }
})();

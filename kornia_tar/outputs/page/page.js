// One slider moves the divider, the fields or the opacity; the picture itself can be dragged, too.
const stage = document.querySelector(".stage"), slider = document.querySelector("#slider");
const told = { swipe: ["Divider", "from the left"], overlay: ["Divider", "from the left"],
  board: ["Size of the fields", ""], fade: ["image1 shows through", ""] };
function show() {
  const view = document.querySelector("input[name=view]:checked").value;
  stage.style.setProperty("--at", slider.value);
  document.querySelector("#slider-label").textContent = told[view][0];
  slider.setAttribute("aria-valuetext", `${slider.value} % ${told[view][1]}`.trim());
}
function drag(event) {
  const box = stage.getBoundingClientRect();
  slider.value = (100 * (event.clientX - box.left)) / box.width;
  show();
}
slider.addEventListener("input", show);
for (const view of document.querySelectorAll("input[name=view]")) view.addEventListener("change", show);
stage.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  stage.setPointerCapture(event.pointerId);
  drag(event);
});
stage.addEventListener("pointermove", (event) => { if (stage.hasPointerCapture(event.pointerId)) drag(event); });
stage.addEventListener("dragstart", (event) => event.preventDefault());
document.documentElement.classList.add("live");
show();

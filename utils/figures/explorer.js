// Sliders over a picture that Python draws. Native range inputs: arrow keys, Home and End work, and every slider has
// its name; the attribute below keeps JupyterLab from taking the keys for the notebook.
function slider(control, moved) {
  const row = document.createElement("label");
  row.className = "explorer-row";
  const name = document.createElement("span");
  name.textContent = control.label;
  const input = document.createElement("input");
  Object.assign(input, { type: "range", min: 0, max: control.values.length - 1, step: 1, value: control.index });
  input.setAttribute("data-lm-suppress-shortcuts", "true");
  input.setAttribute("aria-label", control.label);
  const value = document.createElement("span");
  value.setAttribute("aria-hidden", "true"); // the slider itself says its value
  const say = () => {
    value.textContent = control.values[input.value];
    input.setAttribute("aria-valuetext", control.values[input.value]);
  };
  input.addEventListener("input", () => { say(); moved(Number(input.value)); });
  say();
  row.append(name, input, value);
  return row;
}

function render({ model, el }) {
  const wanted = [...model.get("indices")];
  let sent = wanted.join(), waiting = false, url = "";
  const send = () => {
    waiting = true;
    sent = wanted.join();
    model.set("indices", [...wanted]);
    model.save_changes();
  };
  const box = document.createElement("div");
  box.className = "explorer";
  model.get("controls").forEach((control, i) => {
    const start = { ...control, index: wanted[i] };
    // While Python draws, moves are collected; the last one is sent when the picture is there.
    box.append(slider(start, (index) => { wanted[i] = index; if (!waiting) send(); }));
  });
  const image = document.createElement("img");
  const words = document.createElement("p");
  words.setAttribute("role", "status");
  box.append(image, words);
  el.append(box);

  const draw = () => {
    if (url) URL.revokeObjectURL(url);
    url = URL.createObjectURL(new Blob([model.get("png")], { type: "image/png" }));
    image.src = url;
    image.width = model.get("width");
    image.alt = model.get("description");
    words.textContent = model.get("description");
  };
  const answered = () => {
    draw();
    waiting = false;
    if (wanted.join() !== sent) send();
  };
  model.on("change:answer", answered);
  draw();
  return () => { model.off("change:answer", answered); URL.revokeObjectURL(url); };
}

export default { render };

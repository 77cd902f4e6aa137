// Draws a view (see blocks.py): plain DOM, native controls, one live region. All logic is in Python.
//
// Every focusable element carries data-lm-suppress-shortcuts, or JupyterLab would take its keys for cell commands.
// HTML from Python is rebuilt from a list of harmless elements and attributes, whatever it holds.

const KEEP_KEYS = "data-lm-suppress-shortcuts";
const MATHML = "http://www.w3.org/1998/Math/MathML";
const TAGS = new Set(
  "p strong em b i code pre ul ol li br hr table caption thead tbody tr th td a blockquote span div del sub sup details summary".split(" "),
);
const ATTRIBUTES = new Set("href class colspan rowspan scope start open aria-hidden".split(" "));
const MATH_ATTRIBUTES = new Set(
  "display displaystyle scriptlevel stretchy fence form separator lspace rspace width height depth mathvariant linethickness columnalign accent accentunder movablelimits largeop symmetric minsize maxsize".split(" "),
);
let count = 0;

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== undefined && value !== null) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function control(tag, attributes, ...children) {
  return make(tag, { [KEEP_KEYS]: "true", ...attributes }, ...children);
}

function focusable(node) {
  node.setAttribute("tabindex", "-1");
  node.setAttribute(KEEP_KEYS, "true");
  return node;
}

// ---- HTML from Python, rebuilt node by node

function rebuilt(node) {
  if (node.nodeType === Node.TEXT_NODE) return document.createTextNode(node.data);
  if (node.nodeType !== Node.ELEMENT_NODE) return null;
  const math = node.namespaceURI === MATHML;
  if (!math && !TAGS.has(node.localName)) return document.createTextNode(node.textContent);
  const copy = math ? document.createElementNS(MATHML, node.localName) : document.createElement(node.localName);
  for (const { name, value } of node.attributes) {
    if (math ? !MATH_ATTRIBUTES.has(name) : !ATTRIBUTES.has(name)) continue;
    if (name === "class" && !/^omw-[\w -]+$/.test(value)) continue;
    if (name === "href" && !/^(https?:\/\/|[\w./#-]+$)/.test(value)) continue;
    copy.setAttribute(name, value);
  }
  if (node.localName === "a") {
    copy.setAttribute("target", "_blank");
    copy.setAttribute("rel", "noopener noreferrer");
  }
  if (node.localName === "a" || node.localName === "summary") copy.setAttribute(KEEP_KEYS, "true");
  copy.append(...[...node.childNodes].map(rebuilt).filter(Boolean));
  return copy;
}

function safe(html) {
  const parsed = new DOMParser().parseFromString(`<body>${html}</body>`, "text/html");
  return [...parsed.body.childNodes].map(rebuilt).filter(Boolean);
}

// ---- the blocks; each returns { node, value?, set?, update? }

const DRAW = {
  html(block) {
    const node = make("div", { class: `omw-html ${block.look}` }, ...safe(block.html));
    return { node };
  },

  heading(block) {
    return { node: focusable(make("p", { class: "omw-heading" }, ...safe(block.html))) };
  },

  choices(block, changed) {
    const name = `omw-${++count}`;
    const rows = block.options.map((option) => {
      const input = control("input", { type: block.many ? "checkbox" : "radio", name, value: option.id });
      input.checked = (block.chosen || []).includes(option.id);
      input.addEventListener("change", changed);
      return make("label", { class: "omw-option" }, input, make("span", {}, ...safe(option.html)));
    });
    const node = make("fieldset", { class: `omw-choices ${block.look}` }, make("legend", {}, block.legend), ...rows);
    const inputs = [...node.querySelectorAll("input")];
    return {
      node,
      value: () => inputs.filter((input) => input.checked).map((input) => input.value),
      set: (found) => inputs.forEach((input) => (input.checked = Array.isArray(found) && found.includes(input.value))),
      target: () => inputs[0],
    };
  },

  line(block, changed) {
    const input = control("input", { type: "text", autocomplete: "off", spellcheck: "false", maxlength: 120 });
    input.value = block.value || "";
    input.addEventListener("input", changed);
    const row = make("span", { class: "omw-row" }, input, block.unit ? make("span", { "aria-hidden": "true" }, block.unit) : "");
    const node = make("label", { class: "omw-field" }, make("span", {}, block.label), row);
    return { node, value: () => input.value, set: (text) => (input.value = String(text ?? "")), target: () => input };
  },

  area(block, changed) {
    const input = control("textarea", { rows: block.rows, maxlength: 20000 });
    input.value = block.value || "";
    input.addEventListener("input", changed);
    const node = make("label", { class: "omw-field" }, make("span", {}, block.label), input);
    return { node, value: () => input.value, set: (text) => (input.value = String(text ?? "")), target: () => input };
  },

  file(block) {
    let text = "";
    const input = control("input", { type: "file", accept: block.accept });
    input.addEventListener("change", async () => {
      const chosen = input.files[0];
      text = chosen && chosen.size < 20_000_000 ? await chosen.text() : "";
    });
    const node = make("label", { class: "omw-field" }, make("span", {}, block.label), input);
    return { node, value: () => text, target: () => input };
  },

  fold(block) {
    const summary = control("summary", {}, block.summary);
    return { node: make("details", { class: "omw-fold", open: block.open }, summary, make("div", {}, ...safe(block.html))) };
  },

  results(block) {
    const rows = block.rows.map((row) =>
      make(
        "li",
        { class: `omw-result ${row.mark}` },
        make("span", { class: "omw-badge" }, row.badge),
        make("div", { class: "omw-text" }, ...safe(row.html)),
        make("div", { class: "omw-why" }, ...safe(row.why)),
      ),
    );
    return { node: make("ul", { class: "omw-results" }, ...rows) };
  },

  buttons(block, changed, act) {
    const node = make("div", { class: "omw-buttons" });
    const update = (next) => {
      next.buttons.forEach((wanted, index) => {
        let button = node.children[index];
        if (!button) {
          button = control("button", { type: "button" });
          button.addEventListener("click", (event) => {
            event.preventDefault();
            act(button.value);
          });
          // a key held down must not press the button that the pressed one turns into
          button.addEventListener("keydown", (event) => event.repeat && event.key === "Enter" && event.preventDefault());
          node.append(button);
        }
        button.value = wanted.do;
        button.className = wanted.primary ? "omw-primary" : "";
        button.textContent = wanted.label;
      });
      while (node.children.length > next.buttons.length) node.lastChild.remove();
      return true;
    };
    update(block);
    return { node, update };
  },
};

// ---- one output on the page

function render({ model, el }) {
  const status = make("div", { role: "status", class: "omw-said" });
  const body = make("form", { class: "omw-body", novalidate: true, autocomplete: "off" });
  const waiting = make("p", { class: "omw-html message", hidden: true });
  const root = make("div", { class: "omw", role: "group" }, status, body, waiting);
  const drawn = new Map();
  let turn = null;
  let since = performance.now();
  let timer = 0;

  const values = () => {
    const found = {};
    for (const [id, part] of drawn) if (part.value) found[id] = part.value();
    return found;
  };

  const keepDraft = () => {
    const draft = values();
    for (const id of Object.keys(draft)) if (drawn.get(id).kind === "file") delete draft[id];
    model.set("draft", draft);
    model.save_changes();
  };

  const act = (name) => {
    if (timer) return; // the kernel has not answered the last press yet
    timer = setTimeout(() => {
      waiting.textContent = status.textContent =
        "The kernel has not answered yet. If it is busy, this is checked when its cell ends; if it was restarted, run this cell again: checked answers are kept.";
      waiting.hidden = false;
      timer = 0;
    }, 2500);
    model.send({ do: name, values: values(), ms: Math.round(performance.now() - since) });
  };

  const place = (id, where) => {
    const part = drawn.get(id);
    if (!part) return;
    const node = where === "focus" && part.target ? part.target() : part.node;
    if (where === "focus") {
      if (!part.target) focusable(node);
      node.focus({ preventScroll: true });
    }
    const box = node.getBoundingClientRect();
    if (box.top < 0 || box.top > window.innerHeight * 0.75) node.scrollIntoView({ block: "nearest" });
  };

  const drawBlocks = (view, draft) => {
    const wanted = new Set(view.blocks.map((block) => block.id));
    for (const [id, part] of drawn) {
      if (wanted.has(id)) continue;
      part.node.remove();
      drawn.delete(id);
    }
    let before = null;
    for (const block of view.blocks) {
      const text = JSON.stringify(block);
      let part = drawn.get(block.id);
      if (!part || (part.text !== text && !(part.kind === block.kind && part.update && part.update(block)))) {
        const fresh = { kind: block.kind, ...DRAW[block.kind](block, keepDraft, act) };
        if (draft && fresh.set && block.id in draft) fresh.set(draft[block.id]);
        if (part) part.node.replaceWith(fresh.node);
        part = fresh;
        drawn.set(block.id, part);
      }
      part.text = text;
      const next = before ? before.nextSibling : body.firstChild;
      if (part.node !== next) body.insertBefore(part.node, next);
      before = part.node;
    }
  };

  const draw = (draft) => {
    const view = model.get("view");
    if (!view || !view.blocks) return;
    const inside = body.contains(root.getRootNode().activeElement);
    clearTimeout(timer);
    timer = 0;
    waiting.hidden = true;
    root.setAttribute("aria-label", view.label);
    drawBlocks(view, draft);
    if (turn !== null && view.turn !== turn) {
      status.textContent = "";
      if (view.say) setTimeout(() => (status.textContent = view.say), 30); // the same words twice are said twice
      if (view.focus && inside) place(view.focus, "focus");
      else if (view.show && inside) place(view.show, "show");
      if (inside && !body.contains(root.getRootNode().activeElement)) place(view.show || view.blocks[0].id, "focus");
      since = performance.now();
    }
    turn = view.turn;
  };

  body.addEventListener("submit", (event) => event.preventDefault());
  // Enter in a line, a radio or a checkbox presses the first button; the browser's own way of doing so is lost in JupyterLab
  body.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.target.localName !== "input" || event.target.type === "file") return;
    event.preventDefault();
    const primary = body.querySelector("button.omw-primary");
    if (primary && !event.repeat) act(primary.value);
  });
  const onView = () => draw(null);
  const onMessage = (message) => {
    if (!message || typeof message.download !== "string") return;
    const url = URL.createObjectURL(new Blob([message.download], { type: "application/x-ndjson" }));
    const link = make("a", { href: url, download: message.name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  };
  model.on("change:view", onView);
  model.on("msg:custom", onMessage);
  draw(model.get("draft"));
  el.append(root);
  return () => {
    clearTimeout(timer);
    model.off("change:view", onView);
    model.off("msg:custom", onMessage);
  };
}

export default { render };

// Search, sort and fold the cards that stand on the page. Their state is the address's fragment,
// #q=words&sort=jaccard-asc, so that a link leads to what is shown. Text is only read, never
// turned into markup.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const search = byId("search");
  const sort = byId("sort");
  const fold = byId("fold");
  const list = byId("pairs");
  const MAX_MARKS = 2000;

  const plain = (text) => text.toLowerCase().replace(/\s+/g, " ").trim();
  const parts = (card) => [...card.querySelectorAll("[data-search]")];
  const cardsOf = (container) =>
    [...(container?.children ?? [])].map((card) => ({
      card,
      parts: parts(card),
      text: parts(card).map((part) => plain(part.textContent)).join("\n"),
    }));
  const pairs = cardsOf(list);
  const dropped = cardsOf(byId("dropped"));

  const compareBy = (order) => {
    const [key, direction] = order.split("-");
    const sign = direction === "desc" ? -1 : 1;
    const byText = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
    return ({ card: a }, { card: b }) => {
      const ids = byText(a.dataset.id, b.dataset.id);
      return key === "id" ? sign * ids : sign * (a.dataset[key] - b.dataset[key]) || ids;
    };
  };

  function arrange() {
    const rows = pairs.sort(compareBy(sort.value)).map(({ card }) => card);
    list.append(...rows);
  }

  function filter(query) {
    const shown = [pairs, dropped].map((cards) => {
      for (const entry of cards) entry.card.hidden = !entry.text.includes(query);
      return cards.filter(({ card }) => !card.hidden);
    });
    const [shownPairs, shownDropped] = shown;
    byId("no-pairs").hidden = shownPairs.length > 0 || pairs.length === 0;
    const noDropped = byId("no-dropped");
    if (noDropped) noDropped.hidden = shownDropped.length > 0;
    byId("shown").textContent =
      `${shownPairs.length} of ${pairs.length} pairs` +
      (dropped.length ? `, ${shownDropped.length} of ${dropped.length} dropped` : "");
    if (query) for (const { card } of shownDropped) openWhereFound(card, query);
    mark(shown.flat(), query);
  }

  function openWhereFound(card, query) {
    const details = card.querySelector("details");
    if (details && plain(details.textContent).includes(query)) details.open = true;
  }

  // The matches are painted over the text; the document itself stays as it is.
  function mark(cards, query) {
    if (!globalThis.Highlight || !CSS.highlights) return;
    const ranges = [];
    if (query.length > 1) for (const entry of cards) collect(entry.parts, query, ranges);
    CSS.highlights.set("found", new Highlight(...ranges));
  }

  function collect(elements, query, ranges) {
    for (const element of elements) {
      const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
      for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        const text = node.data.toLowerCase();
        if (text.length !== node.data.length) continue; // a letter that grows in lower case
        for (let at = text.indexOf(query); at >= 0; at = text.indexOf(query, at + query.length)) {
          if (ranges.length >= MAX_MARKS) return;
          const range = new Range();
          range.setStart(node, at);
          range.setEnd(node, at + query.length);
          ranges.push(range);
        }
      }
    }
  }

  function remember() {
    const state = new URLSearchParams();
    if (search.value) state.set("q", search.value);
    if (sort.selectedIndex > 0) state.set("sort", sort.value);
    history.replaceState(null, "", `#${state}`);
  }

  function restore() {
    const state = new URLSearchParams(location.hash.slice(1));
    search.value = state.get("q") ?? "";
    sort.value = state.get("sort") ?? "";
    if (sort.selectedIndex < 0) sort.selectedIndex = 0;
    arrange();
    filter(plain(search.value));
  }

  search.addEventListener("input", () => {
    filter(plain(search.value));
    remember();
  });
  sort.addEventListener("change", () => {
    arrange();
    remember();
  });
  fold.addEventListener("click", () => {
    const folded = list.classList.toggle("folded");
    fold.setAttribute("aria-pressed", String(folded));
  });
  window.addEventListener("hashchange", () => {
    if (location.hash.includes("=")) restore(); // other fragments lead to a heading
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, textarea");
    if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    search.focus();
  });
  byId("toolbar").hidden = pairs.length + dropped.length === 0;
  restore();
})();

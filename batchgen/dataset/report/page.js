// Links into what is folded unfold it, also where the browser does not by itself.
const unfold = () => {
  const target = document.getElementById(location.hash.slice(1));
  const folded = target?.closest("details:not([open])");
  if (folded) {
    folded.open = true;
    target.scrollIntoView();
  }
};
addEventListener("hashchange", unfold);
unfold();

// Shows the cards that have every word that was typed in their prompts, seed, id, key or error.
// Without scripts all cards are shown.
for (const search of document.querySelectorAll("[data-search]")) {
  const cards = [...document.getElementById(search.dataset.search).querySelectorAll(".card")];
  const folded = document.querySelector(`#${search.dataset.search} > details`);
  const texts = cards.map((card) => {
    const found = [...card.querySelectorAll(".find")];
    return found.map((one) => one.textContent.toLowerCase()).join(" ");
  });
  const box = search.querySelector("input");
  const told = search.querySelector("output");
  search.hidden = false;
  box.addEventListener("input", () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    if (words.length && folded) folded.open = true;
    let shown = 0;
    cards.forEach((card, place) => {
      card.hidden = !words.every((word) => texts[place].includes(word));
      shown += !card.hidden;
    });
    told.textContent = words.length ? `${shown} of ${cards.length}` : "";
  });
}

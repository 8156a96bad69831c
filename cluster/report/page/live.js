// Loads the page again when the run has gone on. What a person has opened stays open.
"use strict";
{
  const version = document.documentElement.dataset.version, note = document.getElementById("live"), kept = "open";
  const progress = document.getElementById("progress");
  const nameOf = (item) => item.dataset.client === undefined ? `data ${item.closest("figure").id}` : `client ${item.dataset.client}`;
  const all = () => [...document.querySelectorAll("details.client, figure > details.data")];

  const opened = new Set(JSON.parse(sessionStorage.getItem(kept) || "[]"));
  all().filter((item) => opened.has(nameOf(item))).forEach((item) => { item.open = true; });

  async function look() {
    try {
      const round = await fetch("progress", { cache: "no-store" });
      if (!round.ok) throw new Error(round.statusText);
      progress.textContent = await round.text();
      const answer = await fetch("version", { cache: "no-store" });
      if (!answer.ok) throw new Error(answer.statusText);
      if (await answer.text() !== version) {
        sessionStorage.setItem(kept, JSON.stringify(all().filter((item) => item.open).map(nameOf)));
        location.reload();
        return;
      }
      note.textContent = "This page follows the run.";
    } catch {
      note.textContent = "`safe-fedllm watch` has ended or does not answer: this page shows what it last said.";
    }
    setTimeout(look, 2000);
  }
  look();
}

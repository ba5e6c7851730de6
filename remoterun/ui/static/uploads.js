// The uploads: their versions, who read them, and what is in them.

import { bytes, el, fill, number, stamp } from "./dom.js";
import { Files } from "./files.js";
import { api } from "./state.js";

export function view(element, name) {
  const content = el("div");
  let files = null;
  let closed = false;

  const choose = (upload, version) => {
    files?.close();
    files = new Files(content, `api/uploads/${encodeURIComponent(upload)}`, `version=${version}`);
  };
  const version = (upload) => ({ number: of, size, files: count, created, read_by: readers }) =>
    [el("button.quiet", { onclick: () => choose(upload.name, of) }, `version ${of}`), bytes(size), `${number(count)} ${count === 1 ? "file" : "files"}`, stamp(created), readers.map((run) => [el("a", { href: `runs/${run}` }, `run ${run}`), " "])];
  const row = ({ name: each, versions: [newest], versions: { length }, where }) =>
    [el("a", { href: `uploads/${encodeURIComponent(each)}` }, each), newest && bytes(newest.size), length > 1 && `${length} versions`, newest && stamp(newest.created), [where].flat().join(", ")];

  async function ask() {
    const { uploads } = await api("api/uploads");
    if (closed) return;
    for (const { versions } of uploads) versions.sort((one, other) => other.number - one.number);
    const upload = uploads.find((each) => each.name === name);
    const rows = upload ? upload.versions.map(version(upload)) : uploads.map(row);
    const table = el("table", {}, rows.map((cells) => el("tr", {}, cells.map((cell) => el("td", {}, cell)))));
    fill(element, el("div.uploads", {}, el("h1", {}, upload ? `uploads/${name}` : "Uploads"), rows.length ? table : el("p.note", {}, "Nothing was uploaded yet: remoterun upload FILE"), content));
    if (upload?.versions.length) choose(name, upload.versions[0].number);
  }

  ask().catch((failure) => fill(element, el("p.empty", {}, failure.message)));
  return { close() { closed = true; files?.close(); } };
}

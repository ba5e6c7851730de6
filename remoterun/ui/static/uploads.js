// The uploads: their versions, who read them, and what is in them.

import { bytes, el, fill, number, stamp } from "./dom.js";
import { Files } from "./files.js";
import { api } from "./state.js";

export function view(element, name) {
  let files = null;
  let closed = false;
  const content = el("div");

  const chosen = (upload, { number: version }) => {
    files?.close();
    files = new Files(content, `api/uploads/${encodeURIComponent(upload.name)}`, `version=${version}`);
  };
  const versionRow = (upload) => (version) => el("tr", {},
    el("td", {}, el("button.quiet", { onclick: () => chosen(upload, version) }, `version ${version.number}`)), el("td", {}, bytes(version.size)), el("td", {}, `${number(version.files)} files`),
    el("td", {}, stamp(version.created)), el("td", {}, version.read_by.map((run) => [el("a", { href: `runs/${run}` }, `run ${run}`), " "])));
  const row = (upload) => {
    const newest = upload.versions.at(-1);
    return el("tr", {}, el("td", {}, el("a", { href: `uploads/${encodeURIComponent(upload.name)}` }, upload.name)), el("td", {}, newest && bytes(newest.size)),
      el("td", {}, `${upload.versions.length} versions`), el("td", {}, newest && stamp(newest.created)), el("td", {}, [upload.where].flat().join(", ")));
  };

  async function ask() {
    const { uploads } = await api("api/uploads");
    if (closed) return;
    const upload = uploads.find((each) => each.name === name);
    const lines = upload ? [...upload.versions].sort((one, other) => other.number - one.number).map(versionRow(upload)) : uploads.map(row);
    const empty = !lines.length && el("p.note", {}, name ? `There is no upload ${name}.` : "Nothing was uploaded yet: remoterun upload FILE");
    fill(element, el("div.uploads", {}, el("h1", {}, name ? `uploads/${name}` : "Uploads"), empty, el("table", {}, el("tbody", {}, lines)), content));
    if (upload?.versions.length) chosen(upload, upload.versions.reduce((one, other) => (other.number > one.number ? other : one)));
  }

  ask().catch((failure) => fill(element, el("p.empty", {}, failure.message)));
  return { close() { closed = true; files?.close(); } };
}

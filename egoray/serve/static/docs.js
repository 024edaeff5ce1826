// The OpenAPI document of the service, to be read.

const make = (tag, text, ...inside) => {
  const element = document.createElement(tag);
  element.append(...(text === undefined ? [] : [text]), ...inside);
  return element;
};

const about = await (await fetch(new URL("openapi.json", document.baseURI))).json();
const named = (schema) => (schema.$ref ? about.components.schemas[schema.$ref.split("/").at(-1)] : schema);

/** A schema in a few words. */
function kind(schema) {
  const known = named(schema);
  const choices = (known.anyOf ?? []).filter(({ type }) => type !== "null");
  if (choices.length) return choices.map(kind).join(" or ");
  if (known.enum) return known.enum.map((value) => JSON.stringify(value)).join(", ");
  if (known.type === "array") return `list of ${known.prefixItems ? known.prefixItems.length + " numbers" : kind(known.items ?? {})}`;
  if (known.format === "binary") return "file";
  return known.type ?? "anything";
}

/** What an answer looks like: its fields, with a word for each value. */
function shape(schema, depth = 0) {
  const known = named(schema);
  const choices = (known.anyOf ?? []).filter(({ type }) => type !== "null");
  if (choices.length) return shape(choices[0], depth);
  if (known.type === "array" && known.items) return [shape(known.items, depth + 1)];
  if (!known.properties || depth > 5) return kind(known);
  return Object.fromEntries(Object.entries(known.properties).map(([name, inner]) => [name, shape(inner, depth + 1)]));
}

const table = (rows) => make("table", undefined, ...rows.map((row) => make("tr", undefined, ...row.map((cell) => make("td", cell)))));

function fields(content) {
  const form = content["multipart/form-data"].schema;
  const given = (name, { default: value }) => (form.required.includes(name) ? "needed" : value === undefined || value?.length === 0 ? "" : `default: ${value}`);
  const rows = Object.entries(form.properties).map(([name, field]) => [
    make("code", name),
    [kind(field), given(name, field)].filter(Boolean).join("; "),
    field.description ?? "",
  ]);
  return [make("h3", "A form, or JSON where no file is sent"), table(rows)];
}

function route(path, method, { description, requestBody, responses }) {
  const section = make("section", undefined, make("h2", `${method.toUpperCase()} ${path}`), make("p", description ?? ""));
  if (requestBody) section.append(...fields(requestBody.content));
  const answer = responses[200]?.content?.["application/json"]?.schema;
  if (answer) section.append(make("h3", "Answer"), make("pre", JSON.stringify(shape(answer), null, 2)));
  const others = Object.entries(responses).filter(([status]) => status !== "200" || requestBody);
  if (others.length) section.append(make("h3", "Statuses"), table(others.map(([status, { description: why }]) => [status, why])));
  return section;
}

document.getElementById("summary").textContent = `${about.info.summary} Version ${about.info.version}.`;
const routes = Object.entries(about.paths).flatMap(([path, methods]) => Object.entries(methods).map((entry) => [path, ...entry]));
routes.sort(([, , a], [, , b]) => !a.requestBody - !b.requestBody); // what one asks before what one looks up
document.getElementById("routes").append(...routes.map((found) => route(...found)));

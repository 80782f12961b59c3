// Reads rendered manifests (a JSON list) and prints {wrong: [...], unchecked: [...]}. Each custom resource
// meets its own schema; PromQL meets Prometheus' grammar.
//
// The compiled validators pass over fields they do not know, as an API server that drops them would. But they
// read each field that they do know, so a field that nobody has read is a mistake.
import { readFileSync } from "node:fs";
import { parser } from "@prometheus-io/lezer-promql";

const PACKAGES = {
  "argoproj.io": "argo-cd",
  "external-secrets.io": "external-secrets",
  "gateway.networking.k8s.io": "gateway-api",
  "keda.sh": "keda",
  "monitoring.coreos.com": "prometheus-operator",
};

function watch(value, path, places) {
  if (value === null || typeof value !== "object") return value;
  const place = { path, fields: Object.keys(value), read: new Set() };
  places.push(place);
  const inside = Object.fromEntries(
    place.fields.map((field) => [field, watch(value[field], `${path}.${field}`, places)]),
  );
  const target = Array.isArray(value) ? Object.values(inside) : inside;
  return new Proxy(target, {
    get(_, field) {
      place.read.add(field);
      return target[field];
    },
  });
}

// A free-form object is not looked into at all.
const unread = ({ path, fields, read }) =>
  fields.some((field) => read.has(field)) ? fields.filter((field) => !read.has(field)).map((f) => `${path}.${f}`) : [];

async function check(document) {
  const [group, version] = document.apiVersion.split("/");
  const { [document.kind]: Model } = await import(
    `@kubernetes-models/${PACKAGES[group]}/${group}/${version}/${document.kind}`
  );
  const places = [];
  const { metadata, spec, apiVersion, kind, ...rest } = document;
  const wrong = Object.keys(rest).map((field) => `unknown field .${field}`);
  try {
    // Set on the finished model: its constructor would copy, and read, everything.
    const watched = { metadata: watch(metadata, ".metadata", places), spec: watch(spec, ".spec", places) };
    Object.assign(new Model({}), watched).validate();
  } catch (error) {
    wrong.push(String(error));
  }
  wrong.push(...places.flatMap(unread).map((path) => `unknown field ${path}`));
  for (const { expr } of kind === "PrometheusRule" ? spec.groups.flatMap(({ rules }) => rules) : [])
    parser.parse(expr).iterate({ enter: (node) => void (node.type.isError && wrong.push(`no PromQL: ${expr}`)) });
  return wrong.map((text) => `${kind}/${metadata.name}: ${text}`);
}

const custom = JSON.parse(readFileSync(0)).filter(({ apiVersion }) => apiVersion.split("/")[0].includes("."));
const known = custom.filter(({ apiVersion }) => apiVersion.split("/")[0] in PACKAGES);
const foreign = custom.filter(({ apiVersion }) => !/\.k8s\.io\//.test(apiVersion) && !known.some((k) => k.apiVersion === apiVersion));
console.log(JSON.stringify({
  wrong: (await Promise.all(known.map(check))).flat(),
  unchecked: foreign.map(({ apiVersion, kind }) => `${apiVersion} ${kind}`),
}));

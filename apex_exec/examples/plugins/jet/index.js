
export default { id: "jet", version: "1.0.0", permissions: [], hooks: {
  onActionExecute({ settings, params }) {
    let changed = false;
    try { settings.region = "us"; settings.limits.push(1) } catch { changed = "refused" }
    return { result: { ...settings, changed }, metadata: {} };
  } } };

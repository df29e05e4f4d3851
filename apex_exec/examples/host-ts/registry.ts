/**
 * A platform's `pluginRegistry`: `register` takes the object as the specification prints it, and the daemon keeps it.
 */

import { dirname, join } from "node:path";

import type { ApexClient } from "./client.js";
import type { Registration } from "./protocol.js";

/** Loading a bundle for its checks may take as long as the daemon's `boot_seconds`. */
const INSTALL_MS = 60_000;

/** The plugins of the daemon behind `admin`, a client of its admin endpoint; bundles lie below the folder `root`. */
export class PluginRegistry {
  private readonly registering = new Map<string, Promise<unknown>>();

  constructor(private readonly admin: ApexClient, private readonly root: string) {}

  /**
   * Registers a plugin; the folder of its entry point is its bundle. Nothing of it runs yet. A caller that does not
   * wait for the promise hears of a refusal from `enable`.
   */
  register(plugin: Registration): Promise<void> {
    const path = join(this.root, dirname(plugin.manifest.entrypoint));
    const registering = this.admin.admin<void>("plugin.register", { path, manifest: plugin }, INSTALL_MS);
    registering.catch(() => undefined);  // it is kept for `enable`, and is not an unhandled rejection until then
    this.registering.set(plugin.id, registering);
    return registering;
  }

  /** Has a registered plugin checked and served, for everybody or for one user. */
  async enable(id: string, user?: string): Promise<void> {
    await this.registering.get(id);
    await this.admin.admin("plugin.install", { id }, INSTALL_MS);
    await this.admin.admin("plugin.enable", { id, user }, INSTALL_MS);
  }

  /** Ends serving it, for everybody or for one user. */
  async disable(id: string, user?: string): Promise<void> {
    await this.admin.admin("plugin.disable", { id, user });
  }

  /** Every plugin that the daemon knows, with its state. */
  async list(): Promise<{ id: string; state: string }[]> {
    return (await this.admin.admin<{ plugins: { id: string; state: string }[] }>("plugin.list")).plugins;
  }
}

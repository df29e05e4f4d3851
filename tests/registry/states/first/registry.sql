BEGIN TRANSACTION;
CREATE TABLE approvals (id INTEGER PRIMARY KEY AUTOINCREMENT, plugin VARCHAR(50) NOT NULL, version VARCHAR(20) NOT NULL, digest VARCHAR(64) NOT NULL, permission VARCHAR(40) NOT NULL, state VARCHAR(20) NOT NULL, requested_ns BIGINT NOT NULL, decided_ns BIGINT NOT NULL, expires_ns BIGINT NOT NULL, uid INTEGER NOT NULL, key_id VARCHAR(32) NOT NULL, reason TEXT NOT NULL, statement TEXT NOT NULL, signature VARCHAR(128) NOT NULL);
INSERT INTO "approvals" VALUES(1,'sample','1.0.0','2780df366233ada27c9b18a913869c0a19cbd520b7e6b0f7b89108da7fcf9017','admin:users','approved',1800000120000000000,1800000120000000000,1807776120000000000,1000,'92aeda2574f78f5f0271a3186a8b05e9','ticket 4711','{"atNs":1800000120000000000,"decision":"approve","digest":"2780df366233ada27c9b18a913869c0a19cbd520b7e6b0f7b89108da7fcf9017","expiresNs":1807776120000000000,"keyId":"92aeda2574f78f5f0271a3186a8b05e9","permission":"admin:users","plugin":"sample","reason":"ticket 4711","request":1,"uid":1000,"version":"1.0.0"}','bc75186a420a47507a0a900b06eda3d297429a2f3a72bfdeb91988c8e9092280043ec117ce5f841e4fedc0a3368fb9f3ddd2fda00efe2a4f9c02f73fd034a404');
CREATE TABLE enablement (id INTEGER PRIMARY KEY AUTOINCREMENT, plugin VARCHAR(50) NOT NULL, user_id VARCHAR(36) NOT NULL, from_ns BIGINT NOT NULL, to_ns BIGINT);
INSERT INTO "enablement" VALUES(1,'plain','11111111-1111-4111-8111-111111111111',1800000000000000000,1800000120000000000);
INSERT INTO "enablement" VALUES(2,'plain','22222222-2222-4222-8222-222222222222',1800000060000000000,NULL);
INSERT INTO "enablement" VALUES(3,'sample','',1800000120000000000,NULL);
CREATE TABLE installs (id INTEGER PRIMARY KEY AUTOINCREMENT, plugin VARCHAR(50) NOT NULL, version VARCHAR(20) NOT NULL, digest VARCHAR(64) NOT NULL, operation VARCHAR(20) NOT NULL, uid INTEGER NOT NULL, at_ns BIGINT NOT NULL, note TEXT NOT NULL);
INSERT INTO "installs" VALUES(1,'plain','1.0.0','f64a1b9184067a360a309731a684358d5fb1840106c4b37cd53ba774c523e51b','install',1000,1800000000000000000,'');
INSERT INTO "installs" VALUES(2,'plain','1.0.0','f64a1b9184067a360a309731a684358d5fb1840106c4b37cd53ba774c523e51b','enable',1000,1800000000000000000,'11111111-1111-4111-8111-111111111111');
INSERT INTO "installs" VALUES(3,'plain','1.4.0','81e359189f525e784f3fc0baad6e8c25a0dde643d4a9216ef795e1152b603e4f','upgrade',1000,1800000060000000000,'from 1.0.0');
INSERT INTO "installs" VALUES(4,'sample','1.0.0','2780df366233ada27c9b18a913869c0a19cbd520b7e6b0f7b89108da7fcf9017','install',1000,1800000120000000000,'');
INSERT INTO "installs" VALUES(5,'sample','1.0.0','2780df366233ada27c9b18a913869c0a19cbd520b7e6b0f7b89108da7fcf9017','enable',1000,1800000120000000000,'');
CREATE TABLE keys (key_id VARCHAR(32) PRIMARY KEY, name VARCHAR(100) NOT NULL, role VARCHAR(20) NOT NULL, owner VARCHAR(400) NOT NULL, public_key VARCHAR(64) NOT NULL, state VARCHAR(20) NOT NULL, valid_from_ns BIGINT NOT NULL, valid_until_ns BIGINT NOT NULL, registered_ns BIGINT NOT NULL, uid INTEGER NOT NULL, revoked_ns BIGINT NOT NULL, reason TEXT NOT NULL);
INSERT INTO "keys" VALUES('92aeda2574f78f5f0271a3186a8b05e9','bob','approver','bob','8b7418081a6325213cb0ae393f9630fc45b9fbe5ac488319bf753685f99b8b5e','active',1800000000000000000,1863072000000000000,1800000000000000000,1000,0,'');
CREATE TABLE ledger_heads (
	ledger VARCHAR(40) NOT NULL, 
	seq BIGINT NOT NULL, 
	hash VARCHAR(64) NOT NULL, 
	PRIMARY KEY (ledger)
);
CREATE TABLE plugins (id VARCHAR(50) PRIMARY KEY, name VARCHAR(400) NOT NULL, author VARCHAR(400) NOT NULL, version VARCHAR(20) NOT NULL, state VARCHAR(20) NOT NULL, reason TEXT NOT NULL, author_key VARCHAR(32) NOT NULL, created_ns BIGINT NOT NULL, updated_ns BIGINT NOT NULL);
INSERT INTO "plugins" VALUES('plain','Sample','ACME Corp','1.4.0','enabled','','',1800000000000000000,1800000060000000000);
INSERT INTO "plugins" VALUES('sample','Sample','ACME Corp','1.0.0','enabled','','',1800000120000000000,1800000120000000000);
CREATE TABLE schema_versions (name VARCHAR(40) PRIMARY KEY, version INTEGER NOT NULL);
INSERT INTO "schema_versions" VALUES('registry',2);
CREATE TABLE signatures (digest VARCHAR(64) NOT NULL, role VARCHAR(20) NOT NULL, key_id VARCHAR(32) NOT NULL, signature VARCHAR(128) NOT NULL, signed_ns BIGINT NOT NULL, PRIMARY KEY (digest, role, key_id));
CREATE TABLE versions (plugin VARCHAR(50) NOT NULL REFERENCES plugins (id), version VARCHAR(20) NOT NULL, digest VARCHAR(64) NOT NULL, manifest TEXT NOT NULL, state VARCHAR(20) NOT NULL, reason TEXT NOT NULL, author_key VARCHAR(32) NOT NULL, created_ns BIGINT NOT NULL, created_uid INTEGER NOT NULL, served_ns BIGINT NOT NULL, PRIMARY KEY (plugin, version));
INSERT INTO "versions" VALUES('plain','1.0.0','f64a1b9184067a360a309731a684358d5fb1840106c4b37cd53ba774c523e51b','{"id": "plain", "name": "\u00dcn\u00efcode \ud83d\ude42", "version": "1.0.0", "author": "ACME Corp", "permissions": ["ui:render"], "manifest": {"entrypoint": "plugin.py", "hooks": ["onDashboardLoad"]}}','installed','','',1800000000000000000,1000,1800000000000000000);
INSERT INTO "versions" VALUES('plain','1.4.0','81e359189f525e784f3fc0baad6e8c25a0dde643d4a9216ef795e1152b603e4f','{"id": "plain", "name": "Sample", "version": "1.4.0", "author": "ACME Corp", "permissions": ["ui:render"], "manifest": {"entrypoint": "plugin.py", "hooks": ["onDashboardLoad"]}}','installed','','',1800000060000000000,1000,1800000060000000000);
INSERT INTO "versions" VALUES('sample','1.0.0','2780df366233ada27c9b18a913869c0a19cbd520b7e6b0f7b89108da7fcf9017','{"id": "sample", "name": "Sample", "version": "1.0.0", "author": "ACME Corp", "permissions": ["admin:users", "ui:render"], "manifest": {"entrypoint": "plugin.py", "hooks": ["onDashboardLoad"]}}','installed','','',1800000120000000000,1000,1800000120000000000);
CREATE INDEX ix_versions_digest ON versions (digest);
CREATE INDEX ix_approvals_plugin ON approvals (plugin);
CREATE INDEX ix_approvals_digest ON approvals (digest);
CREATE INDEX ix_enablement_plugin ON enablement (plugin);
CREATE UNIQUE INDEX ux_enablement_open ON enablement (plugin, user_id) WHERE to_ns IS NULL;
CREATE INDEX ix_installs_plugin ON installs (plugin);
CREATE INDEX ix_keys_name ON keys (name);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('installs',5);
INSERT INTO "sqlite_sequence" VALUES('enablement',3);
INSERT INTO "sqlite_sequence" VALUES('approvals',1);
COMMIT;

-- The relay's group roles, for clusters where the one who runs `relay migrate` may not create roles.
-- Run once for the cluster as a superuser, naming that one:
--   psql -v migrator=my_migrator -f deploy/roles.sql
-- Afterwards give the roles to your programs' logins:
--   GRANT relay_writer TO my_order_service;  GRANT relay_publisher TO my_relay;
--   GRANT relay_confirmer TO my_confirmation_consumer;
--   GRANT relay_operator TO alice;  GRANT relay_observer TO grafana;
\set ON_ERROR_STOP on
SELECT format('CREATE ROLE %I NOLOGIN', name)
  FROM unnest(ARRAY['relay_owner', 'relay_writer', 'relay_publisher', 'relay_confirmer',
                    'relay_operator', 'relay_observer']) AS name
 WHERE name NOT IN (SELECT rolname FROM pg_roles)
\gexec
GRANT relay_owner TO :"migrator";

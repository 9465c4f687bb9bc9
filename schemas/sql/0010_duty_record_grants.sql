-- Written by three roles, column by column as everything else: who may change a whole table may lock
-- it, too, and so stop the duties of all others.

SET LOCAL ROLE relay_owner;

REVOKE INSERT, UPDATE ON relay.duty_record FROM relay_publisher, relay_confirmer, relay_operator;
GRANT INSERT (duty, instance, completed_at, due_at, failed_at, failures, error, failure_code, set_aside),
      UPDATE (duty, instance, completed_at, due_at, failed_at, failures, error, failure_code, set_aside)
   ON relay.duty_record TO relay_publisher, relay_confirmer, relay_operator;

"""Life cycle: from a worker that ends to its Auto Scaling group, which waits with the machine's end until it is told.

An error is logged and never raised: the hook's own timeout ends the wait, and the worker has other things to do.
"""

import logging

from botocore.exceptions import BotoCoreError, ClientError

from config.clients import make_aws
from config.errors import SettingsError
from config.settings import Settings
from workers.metadata import Metadata

logger = logging.getLogger(__name__)


class LifeCycle:
    """Speaks for this machine to its group's hook; the rights are those of the machine's role."""

    def __init__(self, settings: Settings, metadata: Metadata) -> None:
        self._settings = settings
        self._hook = settings.lifecycle_hook
        self._metadata = metadata

    def heartbeat(self) -> bool:
        """Begin the hook's timeout anew; False where the group does not wait (any more)."""
        return self._tell("record_lifecycle_action_heartbeat")

    def complete(self) -> bool:
        """Let the machine go; False where the group did not wait for it."""
        return self._tell("complete_lifecycle_action", LifecycleActionResult="CONTINUE")

    def _tell(self, action: str, **more: str) -> bool:
        try:
            instance = self._metadata.read("instance-id")
            # Made for each call, of which there are few: it reads the role's newest keys.
            client = make_aws(self._settings, "autoscaling")
            hook = {"AutoScalingGroupName": self._settings.autoscaling_group, "LifecycleHookName": self._hook}
            getattr(client, action)(**hook, InstanceId=instance, **more)
        except (BotoCoreError, ClientError, SettingsError, OSError) as error:
            logger.warning("lifecycle=%s hook=%s told=no error=%r", action, self._hook, str(error))
            return False
        logger.info("lifecycle=%s hook=%s instance=%s told=yes", action, self._hook, instance)
        return True

#!/usr/bin/python
"""The name of an Auto Scaling group -> whether it replaces spot instances that are likely to be taken."""

DOCUMENTATION = r"""
module: autoscaling_capacity_rebalance
short_description: Turn the capacity rebalancing of an Auto Scaling group on or off
description:
  - M(amazon.aws.autoscaling_group) has no parameter for it.
options:
  name:
    description: Name of the group.
    type: str
    required: true
  enabled:
    description: Whether the group starts a replacement when AWS says that a spot instance is likely to be taken.
    type: bool
    default: true
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
author: pixelherd
"""

EXAMPLES = r"""
- name: Replace a spot worker before it is taken
  autoscaling_capacity_rebalance:
    name: demo-workers
"""

RETURN = r"""
enabled:
  description: What holds now.
  type: bool
  returned: always
"""

from contextlib import suppress

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule

with suppress(ImportError):  # AnsibleAWSModule says so in its own words
    from botocore.exceptions import BotoCoreError, ClientError


def main():
    """Look, and change only what differs."""
    spec = {"name": {"required": True}, "enabled": {"type": "bool", "default": True}}
    module = AnsibleAWSModule(argument_spec=spec, supports_check_mode=True)
    name, enabled = module.params["name"], module.params["enabled"]
    client = module.client("autoscaling")
    try:
        groups = client.describe_auto_scaling_groups(AutoScalingGroupNames=[name])["AutoScalingGroups"]
        if not groups:
            module.fail_json(msg=f"there is no Auto Scaling group {name}")
        changed = bool(groups[0].get("CapacityRebalance")) != enabled
        if changed and not module.check_mode:
            client.update_auto_scaling_group(AutoScalingGroupName=name, CapacityRebalance=enabled)
    except (BotoCoreError, ClientError) as error:
        module.fail_json_aws(error, msg=f"cannot change the capacity rebalancing of {name}")
    module.exit_json(changed=changed, enabled=enabled)


if __name__ == "__main__":
    main()

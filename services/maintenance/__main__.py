from services.maintenance.app import main

main()
